//! The prefix cache: full blocks of known tokens, found by what they and all before them hold.
//!
//! What they hold has a number, which stands for salt and tokens exactly (`prefix_tree.rs`): a hit
//! is never somebody else's text. A hit is a prefix of whole blocks in every KV group and never has
//! the last known token, which must run to give a sample. Blocks behind a window are not needed for
//! a hit. Deliberately absent: copies. A shared block is never written.

use binfer_proto::BlockId;

use super::Scheduler;
use super::pool::Pool;
use super::prefix_tree::Parent;
use super::rows::Draft;
use super::sequence::Key;

/// Prefixes in the tree, for each block of all pools, before idle blocks are given up for it. There
/// are more prefixes than cached blocks where those behind a window are gone: of a full context,
/// Mistral 7B keeps one block in eight.
const PREFIXES_PER_BLOCK: usize = 16;

/// Fills the place of blocks behind the window, which no row reads.
const HOLE: BlockId = BlockId(0);

/// A prefix found in the cache.
#[derive(Debug, Default)]
pub(super) struct Hit {
    pub(super) tokens: usize,
    /// Per KV group, its blocks in order of positions, and how many of them are holes.
    blocks: Vec<(Vec<BlockId>, usize)>,
}

impl Hit {
    pub(super) fn live(&self, kv_group: usize) -> &[BlockId] {
        self.blocks.get(kv_group).map_or(&[], |(ids, gone)| &ids[*gone..])
    }
}

impl Scheduler {
    /// Brings a sequence's tables up to date between two plans: full blocks of known tokens can be
    /// found from now on, blocks behind the window are free.
    pub(super) fn settle(&mut self, key: Key) {
        self.offer_blocks(key);
        let sequence = &mut self.sequences[key];
        let groups = self.config.kv_groups.iter().zip(&mut self.pools);
        for ((group, pool), table) in groups.zip(&mut sequence.tables) {
            if group.window.is_none() {
                continue;
            }
            let first = group.first_block(sequence.planned);
            while table.gone < first.min(table.ids.len()) {
                pool.release(table.ids[table.gone]);
                table.gone += 1;
                self.counters.window_blocks_freed += 1;
            }
        }
    }

    /// Lets others find the full blocks of a sequence. Never in the plan that writes them.
    fn offer_blocks(&mut self, key: Key) {
        if !self.config.prefix_cache {
            return;
        }
        let settled = self.sequences[key].settled();
        for index in 0..self.pools.len() {
            let full = settled / self.config.kv_groups[index].block_tokens as usize;
            if full <= self.sequences[key].tables[index].offered {
                continue;
            }
            self.name_blocks(key, index, full);
            let (pool, table) = (&mut self.pools[index], &mut self.sequences[key].tables[index]);
            for block in table.offered.max(table.gone)..full {
                pool.cache(table.ids[block], table.prefixes[block], &mut self.prefixes);
            }
            table.offered = full;
        }
    }

    /// Prefixes that the tree may have, beside those of sequences, before it costs idle blocks.
    pub(super) fn prefixes_max(&self) -> usize {
        PREFIXES_PER_BLOCK * self.pools.iter().map(Pool::total).sum::<usize>()
    }

    /// Gives up idle blocks while there are too many prefixes.
    pub(super) fn bound_prefixes(&mut self) {
        let max = self.prefixes_max();
        while self.prefixes.len() > max
            && self.pools.iter_mut().any(|pool| pool.forget_idle(&mut self.prefixes))
        {}
    }

    /// Names what the first `blocks` blocks of a sequence hold in one KV group.
    fn name_blocks(&mut self, key: Key, kv_group: usize, blocks: usize) {
        let block_tokens = self.config.kv_groups[kv_group].block_tokens as usize;
        let sequence = &mut self.sequences[key];
        let root = Parent::Salt(sequence.salt);
        let prefixes = &mut sequence.tables[kv_group].prefixes;
        while prefixes.len() < blocks {
            let parent = prefixes.last().copied().map_or(root, Parent::Prefix);
            let start = prefixes.len() * block_tokens;
            let tokens = &sequence.tokens[start..start + block_tokens];
            prefixes.push(self.prefixes.name(parent, tokens));
        }
    }

    /// Remembers which blocks a row fills, though nobody can share them before the next plan.
    pub(super) fn note_filled(&mut self, key: Key, draft: &mut Draft) {
        let sequence = &self.sequences[key];
        let full = sequence.settled() / self.config.kv_groups[0].block_tokens as usize;
        let offered = sequence.tables[0].offered;
        if self.config.prefix_cache && full > offered {
            self.name_blocks(key, 0, full);
            let prefixes = &self.sequences[key].tables[0].prefixes;
            draft.filled.extend_from_slice(&prefixes[offered..full]);
        }
    }

    /// Whether a longer hit is there in the next plan, because this one fills what is missing:
    /// equal prompts that come together are computed once.
    pub(super) fn worth_waiting(&self, key: Key, hit: &Hit, draft: &Draft) -> bool {
        let missing = hit.tokens / self.config.kv_groups[0].block_tokens as usize;
        let missing = self.sequences[key].tables[0].prefixes.get(missing);
        missing.is_some_and(|prefix| draft.filled.contains(prefix))
    }

    /// The longest prefix of a waiting sequence that the cache can give.
    pub(super) fn look_up(&mut self, key: Key) -> Hit {
        if !self.config.prefix_cache {
            return Hit::default();
        }
        let mut tokens_max = self.sequences[key].tokens.len() - 1;
        // Per group and block, the cached block; as far as any prefix can reach.
        let mut found = Vec::with_capacity(self.pools.len());
        for index in 0..self.pools.len() {
            let group = &self.config.kv_groups[index];
            let block_tokens = group.block_tokens as usize;
            let (blocks, windowed) = (tokens_max / block_tokens, group.window.is_some());
            self.name_blocks(key, index, blocks);
            let prefixes = self.sequences[key].tables[index].prefixes[..blocks].iter();
            let ids = prefixes.map(|prefix| self.pools[index].find(*prefix));
            let ids: Vec<Option<BlockId>> =
                if windowed { ids.collect() } else { ids.take_while(Option::is_some).collect() };
            tokens_max = tokens_max.min(ids.len() * block_tokens);
            found.push(ids);
        }
        self.longest(&found, tokens_max)
    }

    fn longest(&self, found: &[Vec<Option<BlockId>>], tokens_max: usize) -> Hit {
        let unit = self.config.hit_unit();
        let mut tokens = tokens_max / unit * unit;
        while tokens > 0 {
            // The last block that is missing inside some window; the prefix must end before it is
            // needed, so nothing between needs a look.
            let groups = self.config.kv_groups.iter().zip(found);
            let missing = groups.filter_map(|(group, ids)| {
                let block_tokens = group.block_tokens as usize;
                let inside = group.first_block(tokens)..tokens / block_tokens;
                let last = inside.rev().find(|block| ids[*block].is_none())?;
                Some(last * block_tokens)
            });
            match missing.min() {
                None => break,
                Some(end) => tokens = end / unit * unit,
            }
        }
        if tokens == 0 {
            return Hit::default();
        }
        let groups = self.config.kv_groups.iter().zip(found);
        let blocks = groups.map(|(group, ids)| {
            let count = tokens / group.block_tokens as usize;
            let gone = group.first_block(tokens).min(count);
            let live = ids[gone..count].iter().flatten().copied();
            (std::iter::repeat_n(HOLE, gone).chain(live).collect(), gone)
        });
        Hit { tokens, blocks: blocks.collect() }
    }

    /// Makes a sequence, which has no blocks, an owner of the blocks of a hit.
    pub(super) fn take_hit(&mut self, key: Key, hit: &Hit) {
        if hit.tokens == 0 {
            return;
        }
        self.counters.prefix_hits += 1;
        self.counters.prefix_tokens_hit += hit.tokens as u64;
        let sequence = &mut self.sequences[key];
        sequence.planned = hit.tokens;
        let tables = sequence.tables.iter_mut().zip(&mut self.pools);
        for ((table, pool), (ids, gone)) in tables.zip(&hit.blocks) {
            table.ids.extend_from_slice(ids);
            table.gone = *gone;
            table.offered = ids.len();
            table.live().iter().for_each(|id| pool.share(*id));
        }
    }

    /// What a failed sequence computed is found by nobody any more.
    pub(super) fn forget_blocks(&mut self, key: Key) {
        let sequence = &mut self.sequences[key];
        for (table, pool) in sequence.tables.iter_mut().zip(&mut self.pools) {
            table.offered = usize::MAX;
            table.live().iter().for_each(|id| pool.forget(*id, &mut self.prefixes));
        }
    }
}

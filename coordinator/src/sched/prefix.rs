//! The prefix cache: full blocks of known tokens, found by their salt and all tokens up to their
//! end.
//!
//! Salt and tokens are interned, not hashed (`prefix_tree.rs`), so a hit is never another text. A
//! hit is a prefix of whole blocks in every KV group. It never covers the last known token, which
//! must run to give a sample, and needs no blocks behind a window. Deliberately absent: copies. A
//! shared block is never written.

use std::sync::Arc;

use binfer_proto::BlockId;

use super::Scheduler;
use super::pool::{BlockPool, Worth};
use super::prefix_tree::{Parent, PrefixTree};
use super::rows::PlanBuilder;
use super::sequence::SequenceKey;

/// Prefixes that the tree may have for each block of all pools. Beyond that idle blocks are
/// evicted. Prefixes are more than cached blocks where the blocks behind a window are evicted: of a
/// full context Mistral 7B keeps one block in eight.
const PREFIXES_PER_BLOCK: usize = 16;

/// Evictions that are remembered for each block of all pools, to say why a prompt was not cached.
const EVICTED_PER_BLOCK: usize = 4;

/// Stands in block tables for blocks behind the window, which no row reads.
const NULL_BLOCK: BlockId = BlockId(0);

/// A prefix found in the cache.
#[derive(Debug, Default)]
pub(super) struct PrefixHit {
    pub(super) tokens: usize,
    /// For each KV group its blocks in order of positions, and how many of them are
    /// [`NULL_BLOCK`].
    blocks: Vec<(Vec<BlockId>, usize)>,
}

impl PrefixHit {
    pub(super) fn live(&self, kv_group: usize) -> &[BlockId] {
        self.blocks.get(kv_group).map_or(&[], |(ids, evicted)| &ids[*evicted..])
    }
}

impl Scheduler {
    /// Brings a sequence's block tables up to date between two plans. Full blocks of known tokens
    /// go into the prefix cache, blocks behind the window are given back.
    pub(super) fn publish_and_trim(&mut self, key: SequenceKey) {
        self.publish_blocks(key);
        let sequence = &mut self.sequences[key];
        let groups = self.config.kv_groups.iter().zip(&mut self.pools);
        for ((group, pool), table) in groups.zip(&mut sequence.tables) {
            if group.window.is_none() {
                continue;
            }
            let first = group.first_block(sequence.num_computed);
            while table.evicted < first.min(table.ids.len()) {
                let end = (table.evicted + 1) * group.block_tokens as usize;
                let worth = if end > sequence.prompt_len { Worth::Low } else { Worth::High };
                pool.release(table.ids[table.evicted], worth);
                table.evicted += 1;
                self.counters.window_blocks_freed += 1;
            }
        }
    }

    /// Puts the full blocks of a sequence into the prefix cache; never in the plan that writes
    /// them.
    fn publish_blocks(&mut self, key: SequenceKey) {
        if !self.config.prefix_cache {
            return;
        }
        let num_publishable = self.sequences[key].num_publishable();
        for index in 0..self.pools.len() {
            let full = num_publishable / self.config.kv_groups[index].block_tokens as usize;
            if full <= self.sequences[key].tables[index].cached {
                continue;
            }
            self.intern_prefixes(key, index, full);
            let (pool, table) = (&mut self.pools[index], &mut self.sequences[key].tables[index]);
            for block in table.cached.max(table.evicted)..full {
                pool.cache(table.ids[block], table.prefixes[block], &mut self.prefixes);
            }
            table.cached = full;
        }
    }

    /// Most prefixes in the tree, beside those of sequences, for which no idle block is evicted.
    pub(super) fn prefixes_max(&self) -> usize {
        PREFIXES_PER_BLOCK * self.pools.iter().map(BlockPool::total).sum::<usize>()
    }

    /// A tree without prefixes for pools of so many blocks.
    pub(super) fn empty_tree(blocks: usize) -> PrefixTree {
        PrefixTree::new(EVICTED_PER_BLOCK * blocks)
    }

    /// Evicts idle blocks while there are too many prefixes.
    pub(super) fn bound_prefixes(&mut self) {
        let max = self.prefixes_max();
        while self.prefixes.len() > max
            && self.pools.iter_mut().any(|pool| pool.evict_idle(&mut self.prefixes))
        {}
    }

    /// Interns the prefixes that end with each of the first `blocks` blocks of a sequence in one KV
    /// group.
    fn intern_prefixes(&mut self, key: SequenceKey, kv_group: usize, blocks: usize) {
        let block_tokens = self.config.kv_groups[kv_group].block_tokens as usize;
        let sequence = &mut self.sequences[key];
        let root = Parent::Salt(Arc::clone(&sequence.salt));
        let prefixes = &mut sequence.tables[kv_group].prefixes;
        while prefixes.len() < blocks {
            let parent = prefixes.last().copied().map_or_else(|| root.clone(), Parent::Prefix);
            let start = prefixes.len() * block_tokens;
            let tokens = &sequence.tokens[start..start + block_tokens];
            prefixes.push(self.prefixes.intern(&parent, tokens));
        }
    }

    /// Notes which blocks a row fills. They can be shared from the next plan on.
    pub(super) fn note_filled_blocks(&mut self, key: SequenceKey, builder: &mut PlanBuilder) {
        let sequence = &self.sequences[key];
        let full = sequence.num_publishable() / self.config.kv_groups[0].block_tokens as usize;
        let cached = sequence.tables[0].cached;
        if self.config.prefix_cache && full > cached {
            self.intern_prefixes(key, 0, full);
            let prefixes = &self.sequences[key].tables[0].prefixes;
            builder.filled.extend_from_slice(&prefixes[cached..full]);
        }
    }

    /// Whether the next plan will find a longer hit, because this one fills the block that is
    /// missing. So equal prompts that arrive together are computed once.
    pub(super) fn worth_waiting(
        &self,
        key: SequenceKey,
        hit: &PrefixHit,
        builder: &PlanBuilder,
    ) -> bool {
        let missing = hit.tokens / self.config.kv_groups[0].block_tokens as usize;
        let missing = self.sequences[key].tables[0].prefixes.get(missing);
        missing.is_some_and(|prefix| builder.filled.contains(prefix))
    }

    /// The longest prefix of a waiting sequence that is in the cache.
    pub(super) fn find_prefix(&mut self, key: SequenceKey) -> PrefixHit {
        if !self.config.prefix_cache {
            return PrefixHit::default();
        }
        let mut tokens_max = self.sequences[key].tokens.len() - 1;
        // For each KV group the cached blocks, as far as any prefix can reach.
        let mut found = Vec::with_capacity(self.pools.len());
        for index in 0..self.pools.len() {
            let group = &self.config.kv_groups[index];
            let block_tokens = group.block_tokens as usize;
            let (blocks, windowed) = (tokens_max / block_tokens, group.window.is_some());
            self.intern_prefixes(key, index, blocks);
            let prefixes = self.sequences[key].tables[index].prefixes[..blocks].iter();
            let ids = prefixes.map(|prefix| self.pools[index].find(*prefix));
            let ids: Vec<Option<BlockId>> =
                if windowed { ids.collect() } else { ids.take_while(Option::is_some).collect() };
            tokens_max = tokens_max.min(ids.len() * block_tokens);
            found.push(ids);
        }
        self.longest_hit(&found, tokens_max)
    }

    fn longest_hit(&self, found: &[Vec<Option<BlockId>>], tokens_max: usize) -> PrefixHit {
        let unit = self.config.hit_unit();
        let mut tokens = tokens_max / unit * unit;
        while tokens > 0 {
            // The last missing block inside some window. The prefix must end before that is needed,
            // so no length between has to be tried.
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
            return PrefixHit::default();
        }
        let groups = self.config.kv_groups.iter().zip(found);
        let blocks = groups.map(|(group, ids)| {
            let count = tokens / group.block_tokens as usize;
            let evicted = group.first_block(tokens).min(count);
            let live = ids[evicted..count].iter().flatten().copied();
            (std::iter::repeat_n(NULL_BLOCK, evicted).chain(live).collect(), evicted)
        });
        PrefixHit { tokens, blocks: blocks.collect() }
    }

    /// Makes a sequence that has no blocks an owner of those of a hit.
    pub(super) fn attach_hit(&mut self, key: SequenceKey, hit: &PrefixHit) {
        if hit.tokens == 0 {
            return;
        }
        self.counters.prefix_hits += 1;
        self.counters.prefix_tokens_hit += hit.tokens as u64;
        let sequence = &mut self.sequences[key];
        sequence.num_computed = hit.tokens;
        let tables = sequence.tables.iter_mut().zip(&mut self.pools);
        for ((table, pool), (ids, evicted)) in tables.zip(&hit.blocks) {
            table.ids.extend_from_slice(ids);
            table.evicted = *evicted;
            table.cached = ids.len();
            table.live().iter().for_each(|id| pool.share(*id));
        }
    }

    /// Takes the blocks of a failed sequence out of the prefix cache.
    pub(super) fn uncache_blocks(&mut self, key: SequenceKey) {
        let sequence = &mut self.sequences[key];
        for (table, pool) in sequence.tables.iter_mut().zip(&mut self.pools) {
            table.cached = usize::MAX;
            table.live().iter().for_each(|id| pool.uncache(*id, &mut self.prefixes));
        }
    }
}

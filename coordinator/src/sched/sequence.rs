//! A request that was taken: its tokens so far, its block tables, and how far it is planned.
//!
//! Deliberately absent: decisions. `planning.rs` decides what runs, `absorb.rs` what a result
//! means.

use std::sync::Arc;

use binfer_proto::{Bias, BlockId, Sampling, SlotId, Token};

use super::cache_miss::CacheMiss;
use super::pool::{BlockPool, Worth};
use super::prefix_tree::{PrefixId, PrefixTree};
use super::salt::Salt;
use super::types::{LeastTokens, Request, RequestId, Tick, Usage};

/// Finds a sequence. The key of one that is over finds nothing, though its entry is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SequenceKey {
    pub(super) index: usize,
    pub(super) age: u64,
}

#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: RequestId,
    /// Its number among all submissions. The older of two sequences, with the smaller age, goes
    /// first.
    pub(super) age: u64,
    /// The journal: the prompt and all sampled tokens whose results are absorbed.
    pub(super) tokens: Vec<Token>,
    pub(super) prompt_len: usize,
    /// Most tokens that the journal may have.
    pub(super) len_max: usize,
    pub(super) end_ids: Arc<[Token]>,
    pub(super) ignore_eos: bool,
    pub(super) sampling: Sampling,
    pub(super) biases: Vec<Bias>,
    pub(super) logprobs: u8,
    pub(super) seed: u64,
    pub(super) choice: u32,
    pub(super) salt: Arc<Salt>,
    pub(super) queue_deadline: Option<Tick>,
    pub(super) least: Option<LeastTokens>,
    /// Its slot while it runs.
    pub(super) slot: Option<SlotId>,
    /// Its block tables, one for each KV group.
    pub(super) tables: Vec<BlockTable>,
    /// Positions whose keys and values are computed, or will be by the steps in flight. The next
    /// row starts here.
    pub(super) num_computed: usize,
    /// Sampled tokens in flight, which will follow `tokens`.
    pub(super) num_in_flight: usize,
    /// Rows in flight, whether they sample a token or not.
    pub(super) rows_in_flight: u32,
    /// Whether its slot has sampled a token, so that its next input is its last sample.
    pub(super) decoding: bool,
    /// How often it may still be preempted.
    pub(super) preemptions_left: u32,
    /// Whether it ever ran.
    pub(super) has_run: bool,
    /// Prompt tokens that it found in the prefix cache when it first ran.
    pub(super) tokens_cached: usize,
    /// Why they were not more; `None` until it first ran.
    pub(super) cache_miss: Option<CacheMiss>,
}

/// What the scheduler's configuration makes of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct SequenceLimits {
    pub(super) len_max: usize,
    pub(super) kv_groups: usize,
    pub(super) preemptions_max: u32,
}

/// Block table of one sequence in one KV group.
#[derive(Debug, Default)]
pub(super) struct BlockTable {
    /// Its blocks, in order of positions.
    pub(super) ids: Vec<BlockId>,
    /// Leading entries that lie behind the window, whose blocks were given back.
    pub(super) evicted: usize,
    /// Leading entries that were sent to the workers.
    pub(super) sent: usize,
    /// Leading entries that were put into the prefix cache.
    pub(super) cached: usize,
    /// Prefixes that end with each full block of the journal, interned when first needed.
    pub(super) prefixes: Vec<PrefixId>,
}

impl BlockTable {
    /// The blocks that the sequence owns.
    pub(super) fn live(&self) -> &[BlockId] {
        &self.ids[self.evicted..]
    }

    /// Gives all blocks back, the last first, because the longest idle block is evicted first and a
    /// prefix is worth more than what follows it.
    pub(super) fn release(&mut self, pool: &mut BlockPool, tree: &mut PrefixTree) {
        self.live().iter().rev().for_each(|id| pool.release(*id, Worth::High));
        self.prefixes.drain(..).for_each(|prefix| tree.release(prefix));
        self.ids.clear();
        self.evicted = 0;
        self.sent = 0;
        self.cached = 0;
    }
}

impl Sequence {
    pub(super) fn new(request: Request, age: u64, limits: SequenceLimits) -> Self {
        Self {
            id: request.id,
            age,
            prompt_len: request.prompt.len(),
            tokens: request.prompt,
            len_max: limits.len_max,
            end_ids: request.end_ids,
            ignore_eos: request.ignore_eos,
            sampling: request.sampling,
            biases: request.biases,
            logprobs: request.logprobs,
            seed: request.seed,
            choice: request.choice,
            salt: Arc::new(Salt {
                weights: request.weights,
                tenant: request.tenant,
                text: request.cache_salt,
            }),
            queue_deadline: request.queue_deadline,
            least: request.least,
            slot: None,
            tables: (0..limits.kv_groups).map(|_| BlockTable::default()).collect(),
            num_computed: 0,
            num_in_flight: 0,
            rows_in_flight: 0,
            decoding: false,
            preemptions_left: limits.preemptions_max,
            has_run: false,
            tokens_cached: 0,
            cache_miss: None,
        }
    }

    /// Whether it was preempted so often that it never is again, and goes first in every order.
    pub(super) fn pinned(&self) -> bool {
        self.preemptions_left == 0
    }

    /// Its place in queue and plan: the smaller one goes first.
    pub(super) fn order(&self) -> (bool, u64) {
        (!self.pinned(), self.age)
    }

    /// Most positions that it writes. Its last token is never an input.
    pub(super) fn positions_max(&self) -> usize {
        self.len_max - 1
    }

    /// Whether its last token by count is known or in flight.
    pub(super) fn complete(&self) -> bool {
        self.tokens.len() + self.num_in_flight >= self.len_max
    }

    /// Tokens that its next row could feed; of a prompt `chunk_tokens_max` at most.
    pub(super) fn tokens_wanted(&self, chunk_tokens_max: usize) -> usize {
        match (self.complete(), self.decoding) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => (self.tokens.len() - self.num_computed).min(chunk_tokens_max),
        }
    }

    /// Positions that are computed, by steps in flight at the latest, and whose tokens are known.
    /// Full blocks of them can be shared.
    pub(super) fn num_publishable(&self) -> usize {
        self.num_computed.min(self.tokens.len())
    }

    /// Whether the token ends the answer.
    pub(super) fn is_end(&self, token: Token) -> bool {
        !self.ignore_eos && self.end_ids.contains(&token)
    }

    /// The bits of the tokens that its last planned sample may be, where it may not end yet.
    pub(super) fn mask_of_last_sample(&self) -> Option<&[u8]> {
        let sampled = self.tokens.len() + self.num_in_flight - self.prompt_len;
        let least = self.least.as_ref().filter(|least| sampled <= least.tokens as usize)?;
        Some(&least.allowed)
    }

    pub(super) fn usage(&self) -> Usage {
        let generated = self.tokens.len() - self.prompt_len;
        Usage {
            prompt: to_u32(self.prompt_len),
            generated: to_u32(generated),
            cached: to_u32(self.tokens_cached),
            cache_miss: self.cache_miss,
        }
    }
}

/// A number of tokens of one sequence, which `context_max` bounds, as plans carry it.
pub(super) fn to_u32(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

/// All sequences, each found by its key in constant time.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    entries: Vec<Option<Sequence>>,
    free: Vec<usize>,
}

impl Sequences {
    pub(super) fn insert(&mut self, sequence: Sequence) -> SequenceKey {
        let age = sequence.age;
        let index = self.free.pop().unwrap_or(self.entries.len());
        if index == self.entries.len() {
            self.entries.push(Some(sequence));
        } else {
            self.entries[index] = Some(sequence);
        }
        SequenceKey { index, age }
    }

    pub(super) fn get(&self, key: SequenceKey) -> Option<&Sequence> {
        self.entries[key.index].as_ref().filter(|sequence| sequence.age == key.age)
    }

    pub(super) fn get_mut(&mut self, key: SequenceKey) -> Option<&mut Sequence> {
        self.entries[key.index].as_mut().filter(|sequence| sequence.age == key.age)
    }

    pub(super) fn remove(&mut self, key: SequenceKey) -> Option<Sequence> {
        self.get(key)?;
        self.free.push(key.index);
        self.entries[key.index].take()
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Sequence> + Clone {
        self.entries.iter().flatten()
    }
}

/// Only for keys out of the lists of running and waiting sequences, which hold no others.
impl std::ops::Index<SequenceKey> for Sequences {
    type Output = Sequence;

    fn index(&self, key: SequenceKey) -> &Sequence {
        self.get(key).expect("listed sequences exist")
    }
}

impl std::ops::IndexMut<SequenceKey> for Sequences {
    fn index_mut(&mut self, key: SequenceKey) -> &mut Sequence {
        self.get_mut(key).expect("listed sequences exist")
    }
}

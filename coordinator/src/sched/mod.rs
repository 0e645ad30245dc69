//! The scheduler: which sequence runs when, in which slot, on which blocks. A pure state machine.
//!
//! `submit`, `finish`, `plan(now)`, `absorb(result)`: the same calls in the same order give the
//! same plans, so a bug report is a seed of the simulator (`sim/`). `rules.rs` is the way in: each
//! rule that plans and results keep, in the smallest case that shows it. Deliberately absent:
//! threads, clocks, random numbers, logging and input or output; text; and everything that knows a
//! model.
//!
//! Sequences are in order of age everywhere. One that finds no free block preempts the newest. One
//! that was preempted three times is pinned: it goes first and is never preempted again. Pinned
//! sequences run together only where all of them fit, so that one of them always progresses.

mod absorb;
mod admission;
mod cache_miss;
#[cfg(test)]
mod cache_rules;
#[cfg(test)]
mod check;
mod config;
mod evicted;
#[cfg(test)]
mod least_rules;
mod miss;
mod planning;
mod pool;
mod prefix;
mod prefix_tree;
mod rows;
#[cfg(test)]
mod rules;
mod salt;
mod sequence;
#[cfg(test)]
pub(crate) mod sim;
mod types;
#[cfg(test)]
mod window_rules;

use std::collections::{BTreeMap, VecDeque};

use binfer_proto::{Epoch, MESSAGE_BYTES_MAX, Masks, SlotId, StepId, Token};

pub use cache_miss::{CacheMiss, CacheMisses};
pub use config::{KvGroupConfig, SchedConfig, SchedConfigError};
pub use salt::TenantId;
pub use types::{
    AbsorbError, Counters, Delivery, FailCause, Finish, LeastTokens, Refused, Request, RequestId,
    Stats, Tick, Usage,
};

use pool::BlockPool;
use prefix_tree::PrefixTree;
use rows::{RowEnd, SentPlan};
use sequence::{Sequence, SequenceKey, Sequences};

/// Constants of admission and preemption. The simulator tries others.
#[derive(Clone, Copy, Debug)]
struct Policy {
    /// Preemptions of a sequence after which it is pinned.
    preemptions_max: u32,
    /// Blocks that admission leaves to each running sequence to grow into, in KV groups without a
    /// window. Fewer mean more preemptions soon after, more mean idle memory.
    spare_blocks: usize,
    /// Most tokens of histories in a plan, unless a single history is longer. Hundreds of requests
    /// with penalties may begin with one long, cached prompt, and the size of a message is bounded.
    history_tokens_max: usize,
}

const POLICY: Policy = Policy {
    preemptions_max: 3,
    spare_blocks: 1,
    // A token takes at most five bytes of a message.
    history_tokens_max: MESSAGE_BYTES_MAX / 16,
};

/// Decides what each step computes, see the module.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedConfig,
    policy: Policy,
    epoch: Epoch,
    /// The step of the last plan.
    step: StepId,
    /// The blocks of each KV group.
    pools: Vec<BlockPool>,
    prefixes: PrefixTree,
    sequences: Sequences,
    ids: BTreeMap<RequestId, SequenceKey>,
    /// Sequences with a slot, by `Sequence::order`.
    running: Vec<SequenceKey>,
    /// Sequences without a slot, by `Sequence::order`. Preempted ones come before those that never
    /// ran.
    waiting: VecDeque<SequenceKey>,
    /// How many of the waiting sequences never ran.
    never_ran: usize,
    /// Prompt tokens of the waiting sequences that never ran.
    never_ran_tokens: usize,
    slots_free: Vec<SlotId>,
    /// Slots to close in the next plan.
    slots_to_close: Vec<SlotId>,
    in_flight: VecDeque<SentPlan>,
    /// Where each row of the last plan ended.
    last_rows: Vec<RowEnd>,
    expired: Vec<Delivery>,
    /// The masks of the last plan.
    masks: Option<Masks>,
    /// The earliest time at which a waiting request can expire.
    next_deadline: Option<Tick>,
    next_age: u64,
    draining: bool,
    counters: Counters,
}

impl Scheduler {
    /// Makes a scheduler that has no request.
    pub fn new(config: SchedConfig) -> Result<Self, SchedConfigError> {
        config.check()?;
        let mut scheduler = Self {
            epoch: config.epoch,
            config,
            policy: POLICY,
            step: StepId(0),
            pools: Vec::new(),
            prefixes: PrefixTree::default(),
            sequences: Sequences::default(),
            ids: BTreeMap::new(),
            running: Vec::new(),
            waiting: VecDeque::new(),
            never_ran: 0,
            never_ran_tokens: 0,
            slots_free: Vec::new(),
            slots_to_close: Vec::new(),
            in_flight: VecDeque::new(),
            last_rows: Vec::new(),
            expired: Vec::new(),
            masks: None,
            next_deadline: None,
            next_age: 0,
            draining: false,
            counters: Counters::default(),
        };
        scheduler.clear();
        Ok(scheduler)
    }

    /// Ends a request from outside, at any time. Nothing more is delivered of it. Returns `None` if
    /// it is over already.
    pub fn finish(&mut self, id: RequestId, why: Finish) -> Option<Usage> {
        let key = *self.ids.get(&id)?;
        if why == Finish::Cancelled && self.sequences[key].rows_in_flight > 0 {
            self.counters.cancels_in_flight += 1;
        }
        let sequence = self.end(key);
        if matches!(why, Finish::StopString(_)) {
            self.counters.overruns_dropped += sequence.num_in_flight as u64;
        }
        Some(sequence.usage())
    }

    /// Takes the last deliveries of requests that expired in the queue. Call it after
    /// [`Self::plan`].
    pub fn take_expired(&mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.expired)
    }

    /// Takes the masks of the last plan. Call it after each plan that is masked: they follow it.
    pub fn take_masks(&mut self) -> Option<Masks> {
        self.masks.take()
    }

    /// Ends all requests and begins the next epoch. Slots, blocks and steps in flight are void.
    pub fn abort_all(&mut self) -> Vec<RequestId> {
        let ids = self.ids.keys().copied().collect();
        self.epoch = Epoch(self.epoch.0 + 1);
        self.clear();
        ids
    }

    /// Refuses requests from now on. Those that were taken go on to their end.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether there is no request and no step in flight.
    pub fn is_idle(&self) -> bool {
        self.ids.is_empty() && self.in_flight.is_empty()
    }

    /// Number of plans that were sent and whose results are not absorbed.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The epoch of the next plan.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The journal of a request that is not over: its prompt and the tokens sampled so far.
    pub fn journal(&self, id: RequestId) -> Option<&[Token]> {
        let key = self.ids.get(&id)?;
        Some(&self.sequences[*key].tokens)
    }

    /// The state in numbers, for metrics.
    pub fn stats(&self) -> Stats {
        Stats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            blocks_free: self.pools.iter().map(BlockPool::available).collect(),
            blocks_cached: self.pools.iter().map(BlockPool::idle).collect(),
            counters: self.counters,
        }
    }

    /// Resets all that belongs to an epoch. Configuration and counters stay.
    fn clear(&mut self) {
        self.step = StepId(0);
        self.pools =
            self.config.kv_groups.iter().map(|group| BlockPool::new(group.blocks)).collect();
        self.prefixes = Self::empty_tree(self.pools.iter().map(BlockPool::total).sum());
        self.sequences = Sequences::default();
        self.ids.clear();
        self.running.clear();
        self.waiting.clear();
        (self.never_ran, self.never_ran_tokens) = (0, 0);
        self.slots_free = (0..self.config.slots_max).rev().map(SlotId).collect();
        self.slots_to_close.clear();
        self.in_flight.clear();
        self.last_rows.clear();
        self.masks = None;
    }

    /// Ends a sequence. Its slot and blocks are free for the next plan.
    fn end(&mut self, key: SequenceKey) -> Sequence {
        let order = self.sequences[key].order();
        if self.sequences[key].slot.is_some() {
            let index =
                self.running.partition_point(|other| self.sequences[*other].order() < order);
            self.running.remove(index);
            self.release(key);
        } else {
            let index =
                self.waiting.partition_point(|other| self.sequences[*other].order() < order);
            self.waiting.remove(index);
            self.leave_queue(key);
            self.release_tables(key);
        }
        let sequence = self.sequences.remove(key).expect("listed sequences exist");
        self.ids.remove(&sequence.id);
        sequence
    }

    /// Takes slot and blocks from a sequence. Steps in flight may still use both, because workers
    /// run steps in order: whoever gets them next comes later.
    fn release(&mut self, key: SequenceKey) {
        self.publish_and_trim(key);
        self.release_tables(key);
        let sequence = &mut self.sequences[key];
        sequence.num_computed = 0;
        sequence.decoding = false;
        if let Some(slot) = sequence.slot.take() {
            self.slots_to_close.push(slot);
            self.slots_free.push(slot);
        }
    }

    fn release_tables(&mut self, key: SequenceKey) {
        for (table, pool) in self.sequences[key].tables.iter_mut().zip(&mut self.pools) {
            table.release(pool, &mut self.prefixes);
        }
        self.bound_prefixes();
    }
}

//! The scheduler: which sequence runs when, in which slot, on which blocks. A pure state machine.
//!
//! `submit`, `finish`, `plan(now)`, `absorb(result)`: the same calls in the same order give the same
//! plans, so a bug report is a seed of the simulator (`sim/`). `rules.rs` is the way in: each rule
//! that plans and results keep, in the smallest case that shows it. Deliberately absent: threads,
//! clocks, random numbers, logging and input or output; text; and everything that knows a model.
//!
//! Order is by age everywhere. A sequence that finds no block takes those of the newest; one that
//! lost its blocks three times is pinned, goes first and never loses them again. Pinned sequences
//! run together only where all of them fit, so somebody always gets on.

mod absorb;
mod admission;
#[cfg(test)]
mod check;
mod config;
mod planning;
mod pool;
mod prefix;
mod prefix_tree;
mod rows;
#[cfg(test)]
mod rules;
mod sequence;
#[cfg(test)]
pub(crate) mod sim;
mod types;

use std::collections::{BTreeMap, VecDeque};

use binfer_proto::{Epoch, MESSAGE_BYTES_MAX, SlotId, StepId, Token};

pub use config::{KvGroupConfig, SchedConfig, SchedConfigError};
pub use types::{
    AbsorbError, Counters, Delivery, FailCause, Finish, Refused, Request, RequestId, Stats, Tick,
    Usage,
};

use pool::BlockPool;
use prefix_tree::PrefixTree;
use rows::{RowEnd, SentPlan};
use sequence::{Sequence, SequenceKey, Sequences};

/// What is decided about preemption. Constant, but the simulator tries others.
#[derive(Clone, Copy, Debug)]
struct Policy {
    /// Times that a sequence loses its blocks before it is pinned.
    preemptions_max: u32,
    /// Blocks that a newcomer leaves to each running sequence to grow into, in groups without a
    /// window; less means more preemptions soon after, more means idle memory.
    spare_blocks: usize,
    /// Tokens of histories that a plan carries at most, unless a single one is longer. Hundreds of
    /// requests with penalties may begin with one long, cached prompt, and a message is bounded.
    history_tokens_max: usize,
}

const POLICY: Policy = Policy {
    preemptions_max: 3,
    spare_blocks: 1,
    // A token takes five bytes at most.
    history_tokens_max: MESSAGE_BYTES_MAX / 16,
};

/// See the module.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedConfig,
    policy: Policy,
    epoch: Epoch,
    /// The last plan's step.
    step: StepId,
    /// One per KV group.
    pools: Vec<BlockPool>,
    prefixes: PrefixTree,
    sequences: Sequences,
    ids: BTreeMap<RequestId, SequenceKey>,
    /// Those with a slot, by `Sequence::order`.
    running: Vec<SequenceKey>,
    /// Those without, by `Sequence::order`: preempted ones come before all that never ran.
    waiting: VecDeque<SequenceKey>,
    /// Waiting requests that never ran, and their prompt tokens.
    never_ran: usize,
    never_ran_tokens: usize,
    slots_free: Vec<SlotId>,
    /// Slots to close in the next plan.
    slots_to_close: Vec<SlotId>,
    in_flight: VecDeque<SentPlan>,
    /// Where the rows of the last plan end.
    last_rows: Vec<RowEnd>,
    expired: Vec<Delivery>,
    /// No waiting request expires before.
    next_deadline: Option<Tick>,
    next_age: u64,
    draining: bool,
    counters: Counters,
}

impl Scheduler {
    /// A scheduler with nothing to do.
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
            next_deadline: None,
            next_age: 0,
            draining: false,
            counters: Counters::default(),
        };
        scheduler.clear();
        Ok(scheduler)
    }

    /// Ends a request from outside, at any time; nothing more is delivered of it. `None` if it is
    /// over already.
    pub fn finish(&mut self, id: RequestId, why: Finish) -> Option<Usage> {
        let key = *self.ids.get(&id)?;
        if why == Finish::Cancelled && self.sequences[key].rows_in_flight > 0 {
            self.counters.cancels_in_flight += 1;
        }
        let sequence = self.end(key);
        if why == Finish::StopString {
            self.counters.overruns_dropped += sequence.num_in_flight as u64;
        }
        Some(sequence.usage())
    }

    /// Requests that failed in the queue, to be asked for after `plan`.
    pub fn take_expired(&mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.expired)
    }

    /// Ends all requests and begins the next epoch: slots, blocks and steps in flight are void.
    pub fn abort_all(&mut self) -> Vec<RequestId> {
        let ids = self.ids.keys().copied().collect();
        self.epoch = Epoch(self.epoch.0 + 1);
        self.clear();
        ids
    }

    /// Takes no more requests; those that it has go on to their end.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// No request and no step in flight.
    pub fn is_idle(&self) -> bool {
        self.ids.is_empty() && self.in_flight.is_empty()
    }

    /// Plans that are sent and not absorbed.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The epoch of the next plan.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Prompt and committed tokens of a request that is not over.
    pub fn journal(&self, id: RequestId) -> Option<&[Token]> {
        let key = self.ids.get(&id)?;
        Some(&self.sequences[*key].tokens)
    }

    /// Numbers for metrics.
    pub fn stats(&self) -> Stats {
        Stats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            blocks_free: self.pools.iter().map(BlockPool::available).collect(),
            blocks_cached: self.pools.iter().map(BlockPool::idle).collect(),
            counters: self.counters,
        }
    }

    /// Everything that belongs to an epoch begins anew; the configuration and counters stay.
    fn clear(&mut self) {
        self.step = StepId(0);
        self.pools =
            self.config.kv_groups.iter().map(|group| BlockPool::new(group.blocks)).collect();
        self.prefixes = PrefixTree::default();
        self.sequences = Sequences::default();
        self.ids.clear();
        self.running.clear();
        self.waiting.clear();
        (self.never_ran, self.never_ran_tokens) = (0, 0);
        self.slots_free = (0..self.config.slots_max).rev().map(SlotId).collect();
        self.slots_to_close.clear();
        self.in_flight.clear();
        self.last_rows.clear();
    }

    /// A sequence is over: its slot and blocks are free for the next plan.
    fn end(&mut self, key: SequenceKey) -> Sequence {
        let order = self.sequences[key].order();
        if self.sequences[key].slot.is_some() {
            let place =
                self.running.partition_point(|other| self.sequences[*other].order() < order);
            self.running.remove(place);
            self.release(key);
        } else {
            let place =
                self.waiting.partition_point(|other| self.sequences[*other].order() < order);
            self.waiting.remove(place);
            self.leave_queue(key);
            self.release_tables(key);
        }
        let sequence = self.sequences.remove(key).expect("listed sequences exist");
        self.ids.remove(&sequence.id);
        sequence
    }

    /// Takes slot and blocks from a sequence. Steps in flight still use both, and may: workers run
    /// steps in order, so whoever gets them next comes later.
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

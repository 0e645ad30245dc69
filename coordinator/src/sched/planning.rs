//! `plan`: one row for each running sequence that can go on, by age, then for admitted ones.
//!
//! Deliberately absent: who is admitted (`admission.rs`) and how a plan is written (`rows.rs`).

use binfer_proto::{HashedPlan, Input, KvGroup, NewBlocks, Outputs, Row, STEPS_IN_FLIGHT_MAX};

use super::Scheduler;
use super::rows::{PlanBuilder, PlannedRows, SentRow};
use super::sequence::{SequenceKey, to_u32};
use super::types::Tick;

impl Scheduler {
    /// Plans the next step. There is none while [`STEPS_IN_FLIGHT_MAX`] steps are in flight, or if
    /// nothing can run. Requests that expire at `now` come out of [`Self::take_expired`].
    pub fn plan(&mut self, now: Tick) -> Option<HashedPlan> {
        self.expire(now);
        if self.in_flight.len() >= STEPS_IN_FLIGHT_MAX {
            return None;
        }
        let mut decodes = 0;
        for index in 0..self.running.len() {
            let key = self.running[index];
            self.publish_and_trim(key);
            let sequence = &self.sequences[key];
            decodes += usize::from(sequence.decoding && !sequence.complete());
        }
        let mut builder = PlanBuilder {
            open: Vec::new(),
            blocks: Vec::new(),
            decode: PlannedRows::with_capacity(self.running.len()),
            chunks: PlannedRows::default(),
            chunk_tokens_left: self.config.tokens_per_step_max as usize - decodes,
            history_tokens: 0,
            filled: Vec::new(),
            preempted: false,
        };
        // Only sequences behind `index` are preempted, so no row of this plan is ever taken back.
        let mut index = 0;
        while index < self.running.len() {
            let key = self.running[index];
            let wanted = self.sequences[key].tokens_wanted(builder.chunk_tokens_left);
            let tokens = match wanted {
                0 => 0,
                wanted => self.preempt_until_fits(index, wanted, &mut builder),
            };
            if tokens > 0 {
                self.add_row(key, tokens, &mut builder);
            }
            index += 1;
        }
        if !builder.preempted {
            self.admit(&mut builder);
        }
        self.build_plan(builder)
    }

    /// How many of the `wanted` tokens the running sequence at `index` can write. The newest
    /// sequences are preempted until it can write one. 0 means that only older or pinned sequences
    /// are left, for whose blocks it must wait.
    fn preempt_until_fits(
        &mut self,
        index: usize,
        wanted: usize,
        builder: &mut PlanBuilder,
    ) -> usize {
        let key = self.running[index];
        let mut exhausted = false;
        loop {
            let tokens = self.tokens_that_fit(key).min(wanted);
            if tokens < wanted && !exhausted {
                exhausted = true;
                self.counters.exhausted += 1;
            }
            let newest = self.running.len() - 1;
            if tokens > 0 || newest == index || self.sequences[self.running[newest]].pinned() {
                return tokens;
            }
            self.preempt_newest();
            builder.preempted = true;
        }
    }

    /// How many tokens a sequence can write into its own and the free blocks of every KV group.
    pub(super) fn tokens_that_fit(&self, key: SequenceKey) -> usize {
        let sequence = &self.sequences[key];
        let groups = self.config.kv_groups.iter().zip(&self.pools).zip(&sequence.tables);
        let end = groups.map(|((group, pool), table)| {
            (table.ids.len() + pool.available()).saturating_mul(group.block_tokens as usize)
        });
        end.min().unwrap_or(0).saturating_sub(sequence.num_computed)
    }

    /// Takes slot and blocks from the newest running sequence, which waits to be computed again.
    /// Its token in flight still counts.
    fn preempt_newest(&mut self) {
        let Some(key) = self.running.pop() else { return };
        self.release(key);
        let sequence = &mut self.sequences[key];
        sequence.preemptions_left -= 1;
        self.counters.preemptions += 1;
        self.counters.pinned += u64::from(sequence.pinned());
        if sequence.rows_in_flight > 0 {
            self.counters.preemptions_in_flight += 1;
        }
        let order = sequence.order();
        let index = self.waiting.partition_point(|other| self.sequences[*other].order() < order);
        self.waiting.insert(index, key);
    }

    /// Plans the next `tokens` tokens of a sequence, for which there are blocks.
    pub(super) fn add_row(&mut self, key: SequenceKey, tokens: usize, builder: &mut PlanBuilder) {
        self.grow_tables(key, tokens, builder);
        let sequence = &mut self.sequences[key];
        let Some(slot) = sequence.slot else { return };
        let (start, end) = (sequence.num_computed, sequence.num_computed + tokens);
        let known = sequence.tokens.len();
        let (planned, input) = if sequence.decoding {
            (&mut builder.decode, Input::LastSample)
        } else {
            builder.chunk_tokens_left -= tokens;
            (&mut builder.chunks, Input::Tokens(sequence.tokens[start..end].to_vec()))
        };
        // A chunk that ends before the known tokens do has nothing to sample yet.
        let samples = end >= known;
        sequence.num_computed = end;
        if samples {
            sequence.decoding = true;
            sequence.num_in_flight += 1;
        } else {
            self.counters.prompts_split += 1;
        }
        sequence.rows_in_flight += 1;
        let outputs = if samples { Outputs::Last } else { Outputs::None };
        let logprobs = if samples { sequence.logprobs } else { 0 };
        planned.rows.push(Row { slot, input, start: to_u32(start), outputs, logprobs });
        planned.sent.push(SentRow { key, samples, logprobs });
        self.note_filled_blocks(key, builder);
    }

    /// Takes the blocks that the next `tokens` tokens of a sequence need, and puts all that the
    /// workers do not know yet into the plan.
    fn grow_tables(&mut self, key: SequenceKey, tokens: usize, builder: &mut PlanBuilder) {
        let sequence = &mut self.sequences[key];
        let Some(slot) = sequence.slot else { return };
        let end = sequence.num_computed + tokens;
        let groups = self.config.kv_groups.iter().zip(&mut self.pools);
        for (index, ((group, pool), table)) in (0..).zip(groups.zip(&mut sequence.tables)) {
            while table.ids.len() < end.div_ceil(group.block_tokens as usize) {
                table.ids.push(pool.take(&mut self.prefixes).expect("the row fits"));
            }
            if table.sent < table.ids.len() {
                let ids = table.ids[table.sent..].to_vec();
                table.sent = table.ids.len();
                builder.blocks.push(NewBlocks { slot, kv_group: KvGroup(index), ids });
            }
        }
    }
}

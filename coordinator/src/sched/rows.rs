//! A plan in the making, and what is remembered of it once it is sent.
//!
//! Deliberately absent: which rows there are; `planning.rs` and `admission.rs` say that.

use binfer_proto::{HashedPlan, Input, NewBlocks, Open, Outputs, Plan, Row, Rows, SlotId, StepId};

use super::Scheduler;
use super::prefix_tree::PrefixId;
use super::sequence::SequenceKey;

/// The plan so far.
#[derive(Debug)]
pub(super) struct PlanBuilder {
    pub(super) open: Vec<Open>,
    pub(super) blocks: Vec<NewBlocks>,
    pub(super) decode: PlannedRows,
    pub(super) chunks: PlannedRows,
    /// Tokens left for chunks of prompts.
    pub(super) chunk_tokens_max: usize,
    /// Of the sequences in `open`.
    pub(super) history_tokens: usize,
    /// What the blocks of KV group 0 that this plan fills will hold.
    pub(super) filled: Vec<PrefixId>,
    /// A sequence lost its blocks: nobody is admitted in this plan.
    pub(super) preempted: bool,
}

#[derive(Debug, Default)]
pub(super) struct PlannedRows {
    pub(super) rows: Vec<Row>,
    pub(super) sent: Vec<SentRow>,
}

impl PlannedRows {
    pub(super) fn with_capacity(rows: usize) -> Self {
        Self { rows: Vec::with_capacity(rows), sent: Vec::with_capacity(rows) }
    }
}

/// A plan that was sent, until its result is absorbed.
#[derive(Debug)]
pub(super) struct SentPlan {
    pub(super) step: StepId,
    pub(super) hash: u64,
    pub(super) rows: Vec<SentRow>,
}

/// Whose a row is.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentRow {
    pub(super) key: SequenceKey,
    /// Whether it has an output.
    pub(super) samples: bool,
    /// Logprobs of its output.
    pub(super) logprobs: u8,
}

/// What decides whether the next plan's row is the same one, a token on.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowEnd {
    slot: SlotId,
    /// Where the next row must start.
    end: u32,
    outputs: Outputs,
}

impl RowEnd {
    fn of(row: &Row) -> Self {
        Self { slot: row.slot, end: row.end(), outputs: row.outputs }
    }

    fn continues(&self, row: &Row) -> bool {
        (self.slot, self.end, self.outputs) == (row.slot, row.start, row.outputs)
            && row.input == Input::LastSample
    }
}

impl Scheduler {
    /// Makes a plan of the draft and remembers it. A draft without rows is no plan: what it would
    /// close waits for the next one.
    pub(super) fn send(&mut self, builder: PlanBuilder) -> Option<HashedPlan> {
        let PlanBuilder { open, blocks, decode, chunks, .. } = builder;
        let (mut rows, mut sent) = (decode.rows, decode.sent);
        rows.extend(chunks.rows);
        sent.extend(chunks.sent);
        if rows.is_empty() {
            return None;
        }
        self.step = self.step.next();
        let same = self.last_rows.len() == rows.len()
            && self.last_rows.iter().zip(&rows).all(|(last, row)| last.continues(row));
        self.last_rows.clear();
        self.last_rows.extend(rows.iter().map(RowEnd::of));
        let mut plan = Plan {
            group: self.config.replica,
            epoch: self.epoch,
            step: self.step,
            close: std::mem::take(&mut self.slots_to_close),
            open,
            blocks,
            rows: Rows::Same,
            masked: false,
        };
        let hash = plan.hash(&rows);
        self.in_flight.push_back(SentPlan { step: self.step, hash, rows: sent });
        if !same {
            plan.rows = Rows::List(rows);
        }
        Some(HashedPlan { plan, hash })
    }
}

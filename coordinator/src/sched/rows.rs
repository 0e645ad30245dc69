//! A plan in the making, and what is kept of it until its result is absorbed.
//!
//! Deliberately absent: which rows a plan has. `planning.rs` and `admission.rs` decide that.

use binfer_proto::{
    HashedPlan, Input, Mask, Masks, NewBlocks, Open, Outputs, Plan, Row, Rows, SlotId, StepId,
};

use super::Scheduler;
use super::prefix_tree::PrefixId;
use super::sequence::SequenceKey;

/// The parts of a plan in the making.
#[derive(Debug)]
pub(super) struct PlanBuilder {
    pub(super) open: Vec<Open>,
    pub(super) blocks: Vec<NewBlocks>,
    pub(super) decode: PlannedRows,
    pub(super) chunks: PlannedRows,
    /// Tokens that chunks of prompts may still have.
    pub(super) chunk_tokens_left: usize,
    /// Tokens in the histories of `open`.
    pub(super) history_tokens: usize,
    /// Prefixes that end in a block of KV group 0 which this plan fills.
    pub(super) filled: Vec<PrefixId>,
    /// Whether a sequence was preempted. Then no sequence is admitted in this plan.
    pub(super) preempted: bool,
}

/// Rows of a plan in the making, and what is kept of each.
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

/// A plan in flight: it was sent, and its result is not absorbed.
#[derive(Debug)]
pub(super) struct SentPlan {
    pub(super) step: StepId,
    pub(super) hash: u64,
    pub(super) rows: Vec<SentRow>,
}

/// What is kept of a row in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentRow {
    pub(super) key: SequenceKey,
    /// Whether a token is sampled.
    pub(super) samples: bool,
    /// Logprobs that come with the token.
    pub(super) logprobs: u8,
}

/// Where a row of the last plan ended. It decides whether a row of the next plan is the same one, a
/// token further.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowEnd {
    slot: SlotId,
    /// Position at which the next row must start.
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
    /// Makes a plan of its parts and keeps what its result is matched with. Without rows there is
    /// no plan; slots to close then wait for the next one.
    pub(super) fn build_plan(&mut self, builder: PlanBuilder) -> Option<HashedPlan> {
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
        self.masks = self.masks_of(&sent);
        let mut plan = Plan {
            replica: self.config.replica,
            epoch: self.epoch,
            step: self.step,
            close: std::mem::take(&mut self.slots_to_close),
            open,
            blocks,
            rows: Rows::Same,
            masked: self.masks.is_some(),
        };
        let hash = plan.hash(&rows);
        self.in_flight.push_back(SentPlan { step: self.step, hash, rows: sent });
        if !same {
            plan.rows = Rows::List(rows);
        }
        Some(HashedPlan { plan, hash })
    }

    /// The masks of the rows of a plan whose samples may not end their answers yet.
    fn masks_of(&self, sent: &[SentRow]) -> Option<Masks> {
        let outputs = (0..).zip(sent.iter().filter(|row| row.samples));
        let masks = outputs.filter_map(|(output, row)| {
            let bits = self.sequences.get(row.key)?.mask_of_last_sample()?.to_vec();
            Some(Mask { output, bits })
        });
        let rows: Vec<Mask> = masks.collect();
        let (replica, epoch, step) = (self.config.replica, self.epoch, self.step);
        (!rows.is_empty()).then_some(Masks { replica, epoch, step, rows })
    }
}

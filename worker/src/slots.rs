//! The replicated state machine: plans in, batches out, the same on every rank.
//!
//! It holds what the plans said about each slot (sampling, length, number of blocks), refuses a
//! plan that contradicts it, and packs the arrays of a step. Block tables are kept by backends.
//! Nothing here depends on a sampled token.

use std::fmt;

use binfer_proto::{
    Epoch, Input, KvGroup, Outputs, Plan, PlanError, PlanLimits, ReplicaId, Row, Rows, Sampling,
    SlotId, StepId, expand_rows,
};

use crate::batch::{Batch, BatchBlocks, BatchOutput, BatchRow, SlotTokens, TokenInput};

/// What a worker remembers of a sequence.
#[derive(Clone, Debug)]
struct SlotState {
    sampling: Sampling,
    seed: u64,
    choice: u32,
    biases: usize,
    /// Per KV group: entries of the block table, which the backend keeps.
    blocks: Vec<usize>,
    /// Positions whose KV is written once all launched steps are done; `None` before the first row.
    len: Option<u32>,
    /// The last launched row of this slot samples a token.
    sampled: bool,
}

/// The slots of one rank.
#[derive(Debug)]
pub struct SlotTable {
    replica: ReplicaId,
    epoch: Epoch,
    next: StepId,
    limits: PlanLimits,
    context_max: u32,
    /// Per KV group.
    block_tokens: Vec<u32>,
    slots: Vec<Option<SlotState>>,
    last_rows: Vec<Row>,
}

/// A plan that was applied and packed.
#[derive(Debug)]
pub struct PackedPlan {
    /// The step's inputs.
    pub batch: Batch,
    /// Hash of the expanded plan.
    pub plan_hash: u64,
    /// Per plan row, how many logprobs come with its sampled token; `None` where it samples none.
    pub row_logprobs: Vec<Option<u8>>,
}

/// Names a step among all steps of all replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StepName {
    replica: ReplicaId,
    epoch: Epoch,
    step: StepId,
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "replica {} epoch {} step {}", self.replica, self.epoch, self.step)
    }
}

/// How a plan contradicts what this rank knows.
#[derive(Debug, thiserror::Error)]
enum SlotError {
    #[error("{came} came where {due} is due")]
    NotDue { came: StepName, due: StepName },
    #[error("masked, but no row samples a token")]
    MaskedWithoutOutputs,
    #[error("slot {0} is closed but was not open")]
    ClosedTwice(SlotId),
    #[error("slot {0} is opened but was not free")]
    OpenedTwice(SlotId),
    #[error("slot {0} is not open")]
    NotOpen(SlotId),
    #[error("slot {slot}: a history of {len} tokens is past the context")]
    HistoryTooLong { slot: SlotId, len: usize },
    #[error("slot {slot}: position {start} + {count} is past the context")]
    PastContext { slot: SlotId, start: u32, count: usize },
    #[error("slot {slot}: {blocks} blocks do not hold {end} positions")]
    TooFewBlocks { slot: SlotId, blocks: usize, end: u32 },
    #[error("slot {0}: continues a sample, but its last row sampled none")]
    NothingSampled(SlotId),
    #[error("slot {slot}: position {start} where {len} is next")]
    NotNext { slot: SlotId, start: u32, len: u32 },
}

impl SlotTable {
    /// All slots free, waiting for step 1 of `epoch`.
    pub fn new(
        identity: (ReplicaId, Epoch),
        limits: PlanLimits,
        context_max: u32,
        block_tokens: Vec<u32>,
    ) -> Self {
        let slots = (0..limits.slots_max).map(|_| None).collect();
        Self {
            replica: identity.0,
            epoch: identity.1,
            next: StepId(1),
            limits,
            context_max,
            block_tokens,
            slots,
            last_rows: Vec::new(),
        }
    }

    /// What plans must keep to.
    pub fn limits(&self) -> &PlanLimits {
        &self.limits
    }

    /// Applies a plan: close, open, blocks, rows. An error means that coordinator and worker
    /// disagree about the state, and ends the epoch.
    pub fn apply(&mut self, plan: &Plan) -> Result<PackedPlan, PlanError> {
        plan.check(&self.limits)?;
        self.apply_checked(plan)
            .map_err(|error| PlanError { step: plan.step, cause: error.to_string() })
    }

    fn apply_checked(&mut self, plan: &Plan) -> Result<PackedPlan, SlotError> {
        let due = StepName { replica: self.replica, epoch: self.epoch, step: self.next };
        let came = StepName { replica: plan.replica, epoch: plan.epoch, step: plan.step };
        if came != due {
            return Err(SlotError::NotDue { came, due });
        }
        self.next = self.next.next();
        let mut batch = Batch { masked: plan.masked, ..Batch::default() };
        self.change_slots(plan, &mut batch)?;
        let rows = match &plan.rows {
            Rows::Same => expand_rows(&self.last_rows),
            Rows::List(rows) => rows.clone(),
        };
        for row in &rows {
            self.pack(row, &mut batch)?;
        }
        if batch.masked && batch.outputs.is_empty() {
            return Err(SlotError::MaskedWithoutOutputs);
        }
        let plan_hash = plan.hash(&rows);
        let logprobs = |row: &Row| (row.outputs != Outputs::None).then_some(row.logprobs);
        let row_logprobs = rows.iter().map(logprobs).collect();
        self.last_rows = rows;
        Ok(PackedPlan { batch, plan_hash, row_logprobs })
    }

    fn change_slots(&mut self, plan: &Plan, batch: &mut Batch) -> Result<(), SlotError> {
        for slot in &plan.close {
            if self.slots[slot.index()].take().is_none() {
                return Err(SlotError::ClosedTwice(*slot));
            }
        }
        for open in &plan.open {
            let (id, len) = (open.slot, open.history.len());
            let slot = SlotState {
                sampling: open.sampling,
                seed: open.seed,
                choice: open.choice,
                biases: open.biases.len(),
                blocks: vec![0; self.block_tokens.len()],
                len: None,
                sampled: false,
            };
            if self.slots[id.index()].replace(slot).is_some() {
                return Err(SlotError::OpenedTwice(id));
            }
            if len > self.context_max as usize {
                return Err(SlotError::HistoryTooLong { slot: id, len });
            }
            if open.sampling.penalises() || !open.biases.is_empty() {
                batch.opened.push(SlotTokens {
                    slot: id,
                    prompt_len: open.prompt_len as usize,
                    history: open.history.clone(),
                    biases: open.biases.clone(),
                });
            }
        }
        for new_blocks in &plan.blocks {
            let KvGroup(group) = new_blocks.kv_group;
            let (slot, kv_group) = (new_blocks.slot, group as usize);
            let blocks = &mut open_slot(&mut self.slots, slot)?.blocks[kv_group];
            let (first, ids) = (*blocks, new_blocks.ids.clone());
            *blocks += ids.len();
            batch.new_blocks.push(BatchBlocks { slot, kv_group, first, ids });
        }
        Ok(())
    }

    fn pack(&mut self, row: &Row, batch: &mut Batch) -> Result<(), SlotError> {
        let id = row.slot;
        let slot = open_slot(&mut self.slots, id)?;
        let (start, count) = (slot.start_of(row)?, row.input.count());
        let end = u32::try_from(count).ok().and_then(|count| start.checked_add(count));
        let end = end.filter(|end| *end <= self.context_max).ok_or(SlotError::PastContext {
            slot: id,
            start,
            count,
        })?;
        for (blocks, block_tokens) in slot.blocks.iter().zip(&self.block_tokens) {
            if (*blocks as u64) * u64::from(*block_tokens) < u64::from(end) {
                return Err(SlotError::TooFewBlocks { slot: id, blocks: *blocks, end });
            }
        }
        let first = batch.tokens.len();
        match &row.input {
            Input::Tokens(tokens) => {
                batch.tokens.extend(tokens.iter().copied().map(TokenInput::Known));
            }
            Input::LastSample => batch.tokens.push(TokenInput::LastSample(id)),
        }
        batch.positions.extend(start..end);
        slot.len = Some(end);
        slot.sampled = row.outputs != Outputs::None;
        if slot.sampled {
            batch.outputs.push(BatchOutput {
                token: batch.tokens.len() - 1,
                slot: id,
                sampling: slot.sampling,
                seed: slot.seed,
                choice: slot.choice,
                position: end,
                biases: slot.biases,
                logprobs: row.logprobs,
            });
        }
        batch.rows.push(BatchRow { slot: id, first, count, start: start as usize });
        Ok(())
    }
}

fn open_slot(slots: &mut [Option<SlotState>], id: SlotId) -> Result<&mut SlotState, SlotError> {
    slots[id.index()].as_mut().ok_or(SlotError::NotOpen(id))
}

impl SlotState {
    /// First position of a row. Positions are contiguous. A sequence begins at 0 or, where the
    /// prefix cache hit, behind blocks that are already written.
    fn start_of(&self, row: &Row) -> Result<u32, SlotError> {
        let slot = row.slot;
        if row.input == Input::LastSample && !self.sampled {
            return Err(SlotError::NothingSampled(slot));
        }
        match self.len {
            Some(len) if row.start != len => {
                Err(SlotError::NotNext { slot, start: row.start, len })
            }
            _ => Ok(row.start),
        }
    }
}

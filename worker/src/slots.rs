//! The replicated state machine: plans in, batches out, the same on every rank.
//!
//! Holds what the plans said about each slot (sampling, length, number of blocks), refuses a plan that
//! contradicts it, and packs the arrays of a step. Block tables are the backends'. Nothing here depends on a sampled token.

use binfer_proto::{
    Epoch, GroupId, Input, KvGroup, Outputs, Plan, PlanError, PlanLimits, Row, Rows, Sampling,
    SlotId, StepId, expand_rows,
};

use crate::batch::{Batch, BatchBlocks, BatchOutput, BatchRow, SlotTokens, TokenInput};

/// What a worker remembers of a sequence.
#[derive(Clone, Debug)]
struct Slot {
    sampling: Sampling,
    seed: u64,
    choice: u32,
    biases: usize,
    /// Per KV group: entries of the block table, which the backend keeps.
    blocks: Vec<usize>,
    /// Positions whose KV is written once all launched steps are done; `None` before the first row.
    len: Option<u32>,
    /// Whether the last launched row of this slot drew a token.
    sampled: bool,
}

/// The slots of one rank.
#[derive(Debug)]
pub struct SlotTable {
    group: GroupId,
    epoch: Epoch,
    next: StepId,
    limits: PlanLimits,
    context_max: u32,
    /// Per KV group.
    block_tokens: Vec<u32>,
    slots: Vec<Option<Slot>>,
    last_rows: Vec<Row>,
}

/// A plan, understood.
#[derive(Debug)]
pub struct Applied {
    /// The step's inputs.
    pub batch: Batch,
    /// Hash of the expanded plan.
    pub plan_hash: u64,
    /// Per plan row that draws a token, how many logprobs come with it.
    pub draws: Vec<Option<u8>>,
}

impl SlotTable {
    /// All slots free, waiting for step 1 of `epoch`.
    pub fn new(
        identity: (GroupId, Epoch),
        limits: PlanLimits,
        context_max: u32,
        block_tokens: Vec<u32>,
    ) -> Self {
        let slots = (0..limits.slots_max).map(|_| None).collect();
        Self {
            group: identity.0,
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
    pub fn apply(&mut self, plan: &Plan) -> Result<Applied, PlanError> {
        plan.check(&self.limits)?;
        self.apply_checked(plan).map_err(|cause| PlanError { step: plan.step, cause })
    }

    fn apply_checked(&mut self, plan: &Plan) -> Result<Applied, String> {
        if (plan.group, plan.epoch, plan.step) != (self.group, self.epoch, self.next) {
            return Err(format!(
                "group {} epoch {} came where group {} epoch {} step {} is due",
                plan.group, plan.epoch, self.group, self.epoch, self.next
            ));
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
            return Err("masked, but no row draws a token".into());
        }
        let plan_hash = plan.hash(&rows);
        let draws = rows.iter().map(|row| (row.outputs != Outputs::None).then_some(row.logprobs));
        let draws = draws.collect();
        self.last_rows = rows;
        Ok(Applied { batch, plan_hash, draws })
    }

    fn change_slots(&mut self, plan: &Plan, batch: &mut Batch) -> Result<(), String> {
        for slot in &plan.close {
            if self.slots[slot.index()].take().is_none() {
                return Err(format!("slot {slot} is closed but was not open"));
            }
        }
        for open in &plan.open {
            let slot = Slot {
                sampling: open.sampling,
                seed: open.seed,
                choice: open.choice,
                biases: open.biases.len(),
                blocks: vec![0; self.block_tokens.len()],
                len: None,
                sampled: false,
            };
            if self.slots[open.slot.index()].replace(slot).is_some() {
                return Err(format!("slot {} is opened but was not free", open.slot));
            }
            if open.history.len() > self.context_max as usize {
                let (slot, len) = (open.slot, open.history.len());
                return Err(format!("slot {slot}: a history of {len} tokens is past the context"));
            }
            if open.sampling.penalises() || !open.biases.is_empty() {
                batch.begun.push(SlotTokens {
                    slot: open.slot,
                    prompt_len: open.prompt_len as usize,
                    history: open.history.clone(),
                    biases: open.biases.clone(),
                });
            }
        }
        for grant in &plan.blocks {
            let KvGroup(group) = grant.kv_group;
            let (slot, kv_group) = (grant.slot, group as usize);
            let blocks = &mut open_slot(&mut self.slots, slot)?.blocks[kv_group];
            let (first, ids) = (*blocks, grant.ids.clone());
            *blocks += ids.len();
            batch.new_blocks.push(BatchBlocks { slot, kv_group, first, ids });
        }
        Ok(())
    }

    fn pack(&mut self, row: &Row, batch: &mut Batch) -> Result<(), String> {
        let id = row.slot;
        let slot = open_slot(&mut self.slots, id)?;
        let count = u32::try_from(row.input.count()).map_err(|_| format!("slot {id}: too long"))?;
        let start = slot.start_of(row).map_err(|cause| format!("slot {id}: {cause}"))?;
        let end = start.checked_add(count).filter(|end| *end <= self.context_max);
        let end = end
            .ok_or_else(|| format!("slot {id}: position {start} + {count} is past the context"))?;
        for (blocks, block_tokens) in slot.blocks.iter().zip(&self.block_tokens) {
            if (*blocks as u64) * u64::from(*block_tokens) < u64::from(end) {
                return Err(format!("slot {id}: {blocks} blocks do not hold {end} positions"));
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
        batch.rows.push(BatchRow { slot: id, first, count: count as usize, start: start as usize });
        Ok(())
    }
}

fn open_slot(slots: &mut [Option<Slot>], id: SlotId) -> Result<&mut Slot, String> {
    slots[id.index()].as_mut().ok_or_else(|| format!("slot {id} is not open"))
}

impl Slot {
    /// First position of a row. Positions are contiguous; a sequence begins at 0 or, where the
    /// prefix cache hit, behind blocks that are already written.
    fn start_of(&self, row: &Row) -> Result<u32, String> {
        if row.input == Input::LastSample && !self.sampled {
            return Err("continues a sample that was not drawn".into());
        }
        match self.len {
            Some(len) if row.start != len => {
                Err(format!("position {} where {len} is next", row.start))
            }
            _ => Ok(row.start),
        }
    }
}

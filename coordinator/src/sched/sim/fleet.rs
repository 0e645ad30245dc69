//! A fleet without a model: applies plans as a worker does and keeps the contents of blocks.
//!
//! It knows nothing of the scheduler's state, and of a request only what plans say, and its salt.
//! That stands for weights and tenant, which plans do not name.

use std::collections::BTreeMap;

use binfer_proto::{
    Epoch, Input, Logprob, Outputs, Plan, PlanLimits, Rank, Row, RowResult, RowStatus, Rows,
    StepId, StepResult, Token, Tokens, expand_rows,
};

use super::chain::{CellContent, Chain, SampleSeed};
use super::prng::Prng;
use crate::sched::SchedConfig;

pub(super) struct SimFleet {
    chain: Chain,
    limits: PlanLimits,
    block_tokens: Vec<usize>,
    epoch: Epoch,
    step: StepId,
    slots: Vec<Option<SimSlot>>,
    last_rows: Vec<Row>,
    /// The blocks of each KV group.
    blocks: Vec<Vec<BlockContent>>,
    /// The salt of each request, by its seed, which no other request has.
    pub(super) salts: BTreeMap<u64, u64>,
    /// Percent of rows whose logits are not finite.
    pub(super) non_finite_percent: usize,
    prng: Prng,
}

#[derive(Clone, Debug)]
struct SimSlot {
    sample_seed: SampleSeed,
    salt: u64,
    tables: Vec<Vec<usize>>,
    len: Option<usize>,
    /// The history in the plan that opened the slot, if a penalty needs it.
    history: Option<Vec<Token>>,
    sample: Option<Token>,
}

/// A step that ran.
pub(super) struct StepRun {
    pub(super) result: StepResult,
    /// For each row the seed of its request, and whether it brings that a delivery.
    pub(super) rows: Vec<(u64, bool)>,
}

/// For each offset in a block what was written, and in which step.
type BlockContent = Vec<Option<(CellContent, StepId)>>;

/// A row that ran: slot, first position, end.
type RowSpan = (usize, usize, usize);

impl SimFleet {
    pub(super) fn new(config: &SchedConfig, chain: Chain, prng: Prng) -> Self {
        let groups = &config.kv_groups;
        let limits = PlanLimits {
            slots_max: config.slots_max,
            tokens_per_step_max: config.tokens_per_step_max,
            vocab: chain.vocab,
            blocks: groups.iter().map(|group| group.blocks).collect(),
        };
        let empty = |block_tokens: u32| vec![None; block_tokens as usize];
        Self {
            chain,
            limits,
            block_tokens: groups.iter().map(|group| group.block_tokens as usize).collect(),
            epoch: config.epoch,
            step: StepId(0),
            slots: vec![None; config.slots_max as usize],
            last_rows: Vec::new(),
            blocks: groups
                .iter()
                .map(|group| vec![empty(group.block_tokens); group.blocks as usize])
                .collect(),
            salts: BTreeMap::new(),
            non_finite_percent: 0,
            prng,
        }
    }

    /// Begins a new epoch. Slots are free, and blocks keep what they hold, as on a device.
    pub(super) fn reset(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        self.step = StepId(0);
        self.slots.iter_mut().for_each(|slot| *slot = None);
        self.last_rows.clear();
    }

    pub(super) fn run(&mut self, plan: &Plan) -> Result<StepRun, String> {
        plan.check(&self.limits).map_err(|error| error.to_string())?;
        self.step = self.step.next();
        if (plan.epoch, plan.step) != (self.epoch, self.step) {
            return Err(format!("epoch {} step {} is not due", plan.epoch, plan.step));
        }
        self.change_slots(plan)?;
        let rows = match &plan.rows {
            Rows::Same => expand_rows(&self.last_rows),
            Rows::List(rows) => rows.clone(),
        };
        // All writes come before all reads, so that a block which two rows use at once is noticed.
        let mut writers = BTreeMap::new();
        let spans: Vec<RowSpan> =
            rows.iter().map(|row| self.write(row, &mut writers)).collect::<Result<_, _>>()?;
        let mut ran = Vec::new();
        let mut outcomes = Vec::new();
        for (row, span) in rows.iter().zip(spans) {
            let outcome = self.read(row, span)?;
            let delivers = row.outputs == Outputs::Last || outcome.status == RowStatus::NonFinite;
            ran.push((self.slots[span.0].as_ref().unwrap().sample_seed.seed, delivers));
            outcomes.push(outcome);
        }
        let result = StepResult {
            replica: plan.replica,
            epoch: plan.epoch,
            step: plan.step,
            rank: Rank(0),
            plan_hash: plan.hash(&rows),
            digest: 0,
            rows: outcomes,
            step_us: 0,
        };
        self.last_rows = rows;
        Ok(StepRun { result, rows: ran })
    }

    fn change_slots(&mut self, plan: &Plan) -> Result<(), String> {
        for slot in &plan.close {
            self.slots[slot.index()].take().ok_or(format!("slot {slot} closes but is not open"))?;
        }
        for open in &plan.open {
            let slot = SimSlot {
                sample_seed: SampleSeed { seed: open.seed, choice: open.choice },
                salt: self.salts[&open.seed],
                tables: vec![Vec::new(); self.block_tokens.len()],
                len: None,
                history: open.sampling.penalises().then(|| open.history.clone()),
                sample: None,
            };
            if self.slots[open.slot.index()].replace(slot).is_some() {
                return Err(format!("slot {} opens but is not free", open.slot));
            }
        }
        for new_blocks in &plan.blocks {
            let slot = self.slots[new_blocks.slot.index()].as_mut();
            let slot =
                slot.ok_or(format!("slot {} gets blocks but is not open", new_blocks.slot))?;
            slot.tables[new_blocks.kv_group.index()]
                .extend(new_blocks.ids.iter().map(|id| id.index()));
        }
        Ok(())
    }

    fn write(
        &mut self,
        row: &Row,
        writers: &mut BTreeMap<(usize, usize), usize>,
    ) -> Result<RowSpan, String> {
        let index = row.slot.index();
        let mut slot = self.slots[index].take().ok_or(format!("slot {index} runs but is shut"))?;
        let start = row.start as usize;
        if slot.len.is_some_and(|len| len != start) {
            return Err(format!("slot {index}: position {start} after {:?}", slot.len));
        }
        let tokens = match &row.input {
            Input::Tokens(tokens) => tokens.clone(),
            Input::LastSample => vec![slot.sample.ok_or("a row goes on without a sample")?],
        };
        let end = start + tokens.len();
        // The plan that opened the slot knew the tokens that are fed, so its history has them.
        if let (Some(history), Input::Tokens(fed)) = (&slot.history, &row.input)
            && history.get(start..end) != Some(fed)
        {
            return Err(format!("slot {index}: tokens from {start} are not in the history"));
        }
        for (group, table) in slot.tables.iter().enumerate() {
            let block_tokens = self.block_tokens[group];
            for (position, token) in (start..end).zip(&tokens) {
                let read = |position| self.cell(group, table, position);
                let cell = self.chain.write((group, position), (slot.salt, *token), read)?;
                let block = *table.get(position / block_tokens).ok_or("a table is too short")?;
                if *writers.entry((group, block)).or_insert(index) != index {
                    return Err(format!("block {block} of group {group} has two writers"));
                }
                self.blocks[group][block][position % block_tokens] = Some((cell, self.step));
            }
        }
        slot.len = Some(end);
        self.slots[index] = Some(slot);
        Ok((index, start, end))
    }

    /// Reads all positions that the row attends to, checks their content, and samples.
    fn read(&mut self, row: &Row, (index, start, end): RowSpan) -> Result<RowResult, String> {
        let mut slot = self.slots[index].take().unwrap();
        for (group, table) in slot.tables.iter().enumerate() {
            for position in self.chain.first(group, start)..end {
                let (cell, step) = self.written(group, table, position)?;
                let block = table[position / self.block_tokens[group]];
                let at =
                    format_args!("slot {index}, group {group}, position {position}: block {block}");
                if (cell.salt, cell.position) != (slot.salt, position) {
                    return Err(format!("{at} holds position {} of somebody", cell.position));
                }
                if position < start && step == self.step {
                    return Err(format!("{at} is shared in the step that writes it"));
                }
            }
        }
        let non_finite = self.prng.chance(self.non_finite_percent);
        let (mut tokens, mut logprobs) = (Tokens::new(), Vec::new());
        if row.outputs == Outputs::Last {
            let read = |group: usize, position| self.cell(group, &slot.tables[group], position);
            let token = self.chain.sample(slot.sample_seed, end, read)?;
            slot.sample = Some(token);
            tokens.push(token);
            logprobs = vec![Logprob { token, logprob: -1.0 }; row.logprobs.into()];
        }
        self.slots[index] = Some(slot);
        let status = if non_finite { RowStatus::NonFinite } else { RowStatus::Ok };
        Ok(RowResult { status, tokens, logprobs })
    }

    fn cell(&self, group: usize, table: &[usize], position: usize) -> Result<CellContent, String> {
        self.written(group, table, position).map(|(cell, _)| cell)
    }

    fn written(
        &self,
        group: usize,
        table: &[usize],
        position: usize,
    ) -> Result<(CellContent, StepId), String> {
        let block_tokens = self.block_tokens[group];
        let block = *table.get(position / block_tokens).ok_or("a table is too short")?;
        let unwritten = || format!("position {position} of group {group} was never written");
        self.blocks[group][block][position % block_tokens].ok_or_else(unwritten)
    }
}

//! What a plan must satisfy before anybody acts on it, whatever the state of the slots.
//!
//! Every worker checks what it received. The coordinator checks the parameters of requests in the
//! same way (`sampling.rs`), so that no request makes a plan that a worker refuses. Rules that need
//! the state of slots (positions are contiguous, blocks cover them) are the worker's.

use std::collections::BTreeSet;

use crate::ids::{KvGroup, SlotId, StepId, Token};
use crate::plan::{Input, NewBlocks, Open, Outputs, Plan, Row, Rows, TOP_LOGPROBS_MAX};
use crate::sampling::Bias;

/// Bounds that both sides agreed on in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanLimits {
    /// Slots `0..slots_max` exist.
    pub slots_max: u32,
    /// Input tokens of a plan, over all rows, at most.
    pub tokens_per_step_max: u32,
    /// Token ids `0..vocab` exist.
    pub vocab: u32,
    /// Blocks `0..blocks[kv_group]` exist.
    pub blocks: Vec<u32>,
}

/// Why a plan is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("step {step}: {cause}")]
pub struct PlanError {
    /// The plan's step.
    pub step: StepId,
    /// What is wrong with it.
    pub cause: String,
}

impl Plan {
    /// Checks everything that can be said without the state of slots.
    pub fn check(&self, limits: &PlanLimits) -> Result<(), PlanError> {
        let Self { replica: _, epoch: _, step, close, open, blocks, rows, masked: _ } = self;
        let check = PlanCheck { step: *step, limits };
        close.iter().try_for_each(|slot| check.slot(*slot))?;
        check.unique(close.iter().copied(), "closed")?;
        open.iter().try_for_each(|open| check.slot(open.slot))?;
        check.unique(open.iter().map(|open| open.slot), "opened")?;
        open.iter().try_for_each(|open| check.open(open))?;
        blocks.iter().try_for_each(|new_blocks| check.blocks(new_blocks))?;
        match rows {
            Rows::Same => Ok(()),
            Rows::List(rows) => check.rows(rows),
        }
    }
}

/// The check of one plan.
struct PlanCheck<'a> {
    step: StepId,
    limits: &'a PlanLimits,
}

impl PlanCheck<'_> {
    fn refused<T>(&self, cause: String) -> Result<T, PlanError> {
        Err(PlanError { step: self.step, cause })
    }

    fn slot(&self, slot: SlotId) -> Result<(), PlanError> {
        let slots_max = self.limits.slots_max;
        if slot.0 < slots_max {
            return Ok(());
        }
        self.refused(format!("slot {slot} is not below {slots_max}"))
    }

    fn unique(
        &self,
        slots: impl Iterator<Item = SlotId>,
        verb: &'static str,
    ) -> Result<(), PlanError> {
        let mut named = BTreeSet::new();
        for slot in slots {
            if !named.insert(slot) {
                return self.refused(format!("slot {slot} is {verb} twice"));
            }
        }
        Ok(())
    }

    fn tokens(&self, tokens: &[Token]) -> Result<(), PlanError> {
        let vocab = self.limits.vocab;
        match tokens.iter().find(|token| **token >= vocab) {
            Some(token) => self.refused(format!("token {token} is not below {vocab}")),
            None => Ok(()),
        }
    }

    fn open(&self, open: &Open) -> Result<(), PlanError> {
        let Open { slot, sampling, seed: _, choice: _, prompt_len, history, biases } = open;
        self.tokens(history)?;
        let needed = if sampling.penalises() { *prompt_len as usize } else { 0 };
        if history.len() < needed {
            let len = history.len();
            return self.refused(format!(
                "slot {slot}: a history of {len} tokens, the prompt has {needed}"
            ));
        }
        let parameters = Bias::check(biases, self.limits.vocab).and_then(|()| sampling.check());
        parameters.or_else(|error| self.refused(format!("slot {slot}: {error}")))
    }

    fn blocks(&self, new_blocks: &NewBlocks) -> Result<(), PlanError> {
        let NewBlocks { slot, kv_group: KvGroup(kv_group), ids } = new_blocks;
        self.slot(*slot)?;
        let Some(count) = self.limits.blocks.get(*kv_group as usize) else {
            return self.refused(format!("KV group {kv_group} does not exist"));
        };
        match ids.iter().find(|id| id.0 >= *count) {
            Some(id) => {
                self.refused(format!("block {id} of KV group {kv_group} is not below {count}"))
            }
            None => Ok(()),
        }
    }

    fn rows(&self, rows: &[Row]) -> Result<(), PlanError> {
        self.unique(rows.iter().map(|row| row.slot), "run")?;
        rows.iter().try_for_each(|row| self.row(row))?;
        let tokens = rows.iter().map(|row| row.input.count()).fold(0, usize::saturating_add);
        let tokens_max = self.limits.tokens_per_step_max;
        if tokens > tokens_max as usize {
            return self.refused(format!("{tokens} tokens are more than {tokens_max}"));
        }
        Ok(())
    }

    fn row(&self, row: &Row) -> Result<(), PlanError> {
        let Row { slot, input, start: _, outputs, logprobs } = row;
        self.slot(*slot)?;
        if *outputs == Outputs::All {
            let cause = format!("slot {slot}: outputs for all inputs are not in this version");
            return self.refused(cause);
        }
        if *logprobs > 1 + TOP_LOGPROBS_MAX || u32::from(*logprobs) > 1 + self.limits.vocab {
            return self.refused(format!("slot {slot}: {logprobs} logprobs are too many"));
        }
        match input {
            Input::Tokens(tokens) if tokens.is_empty() => {
                self.refused(format!("slot {slot}: a row without tokens"))
            }
            Input::Tokens(tokens) => self.tokens(tokens),
            Input::LastSample => Ok(()),
        }
    }
}

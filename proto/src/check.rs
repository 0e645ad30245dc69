//! What a plan must satisfy before anybody acts on it, whatever the state of the slots.
//!
//! The coordinator checks before it sends, every worker after it received. Rules that need the
//! state of slots (positions contiguous, blocks cover them) are the worker's slot table's.

use std::collections::BTreeSet;

use crate::ids::{KvGroup, SlotId, StepId, Token};
use crate::plan::{Input, Open, Outputs, Plan, Row, Rows, Sampling};

/// Bounds that both sides agreed on in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanLimits {
    /// Slots `0..slots_max` exist.
    pub slots_max: u32,
    /// Sum of input tokens over rows.
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
        self.check_all(limits).map_err(|cause| PlanError { step: self.step, cause })
    }

    fn check_all(&self, limits: &PlanLimits) -> Result<(), String> {
        if self.masked {
            return Err("masked sampling is not in this version".into());
        }
        let slots = || self.close.iter().chain(self.open.iter().map(|open| &open.slot));
        if let Some(slot) = slots().find(|slot| slot.0 >= limits.slots_max) {
            return Err(format!("slot {slot} is not below {}", limits.slots_max));
        }
        unique(self.close.iter().copied(), "closed")?;
        unique(self.open.iter().map(|open| open.slot), "opened")?;
        self.open.iter().try_for_each(|open| check_open(open, limits))?;
        for grant in &self.blocks {
            check_slot(grant.slot, limits)?;
            let KvGroup(group) = grant.kv_group;
            let Some(count) = limits.blocks.get(group as usize) else {
                return Err(format!("KV group {group} does not exist"));
            };
            if let Some(id) = grant.ids.iter().find(|id| id.0 >= *count) {
                return Err(format!("block {id} of KV group {group} is not below {count}"));
            }
        }
        match &self.rows {
            Rows::Same => Ok(()),
            Rows::List(rows) => check_rows(rows, limits),
        }
    }
}

fn check_open(open: &Open, limits: &PlanLimits) -> Result<(), String> {
    let Open { slot, sampling, history, adapter, .. } = open;
    if *adapter != 0 {
        return Err(format!("slot {slot}: adapter {adapter}: adapters are not in this version"));
    }
    check_tokens(history, limits)?;
    sampling.check().map_err(|cause| format!("slot {slot}: {cause}"))
}

impl Sampling {
    /// Refuses values out of range, and by name what this version cannot do.
    pub fn check(&self) -> Result<(), String> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(format!("temperature {} is not 0 or more", self.temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(format!("top_p {} is not above 0 and at most 1", self.top_p));
        }
        let off = Self::GREEDY;
        for (name, value, neutral) in [
            ("min_p", self.min_p, off.min_p),
            ("repetition_penalty", self.repetition_penalty, off.repetition_penalty),
            ("presence_penalty", self.presence_penalty, off.presence_penalty),
            ("frequency_penalty", self.frequency_penalty, off.frequency_penalty),
        ] {
            if value.to_bits() != neutral.to_bits() {
                return Err(format!("{name} is not in this version"));
            }
        }
        Ok(())
    }
}

fn check_rows(rows: &[Row], limits: &PlanLimits) -> Result<(), String> {
    unique(rows.iter().map(|row| row.slot), "run")?;
    let mut total = 0_usize;
    for row in rows {
        check_slot(row.slot, limits)?;
        let refused = match row {
            Row { draft: 1.., .. } => "draft tokens",
            Row { logprobs: 1.., .. } => "logprobs",
            Row { outputs: Outputs::All, .. } => "outputs for all inputs",
            _ => "",
        };
        if !refused.is_empty() {
            return Err(format!("slot {}: {refused} are not in this version", row.slot));
        }
        if let Input::Tokens(tokens) = &row.input {
            if tokens.is_empty() {
                return Err(format!("slot {}: a row without tokens", row.slot));
            }
            check_tokens(tokens, limits)?;
        }
        total = total.saturating_add(row.input.count());
    }
    if total > limits.tokens_per_step_max as usize {
        return Err(format!("{total} tokens are more than {}", limits.tokens_per_step_max));
    }
    Ok(())
}

fn check_slot(slot: SlotId, limits: &PlanLimits) -> Result<(), String> {
    if slot.0 < limits.slots_max {
        return Ok(());
    }
    Err(format!("slot {slot} is not below {}", limits.slots_max))
}

fn check_tokens(tokens: &[Token], limits: &PlanLimits) -> Result<(), String> {
    match tokens.iter().find(|token| **token >= limits.vocab) {
        Some(token) => Err(format!("token {token} is not below {}", limits.vocab)),
        None => Ok(()),
    }
}

fn unique(slots: impl Iterator<Item = SlotId>, verb: &str) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for slot in slots {
        if !seen.insert(slot) {
            return Err(format!("slot {slot} is {verb} twice"));
        }
    }
    Ok(())
}

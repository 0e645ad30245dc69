//! What a plan must satisfy before anybody acts on it, whatever the state of the slots.
//!
//! Every worker checks what it received; the coordinator refuses requests by the same checks of
//! their parameters, so no request makes a plan that a worker refuses. Rules that need the state of
//! slots (positions contiguous, blocks cover them) are the worker's slot table's.

use std::collections::BTreeSet;

use crate::ids::{KvGroup, SlotId, StepId, Token};
use crate::plan::{
    BIASES_MAX, Bias, Input, Open, Outputs, Plan, Row, Rows, Sampling, TOP_LOGPROBS_MAX,
};

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
    let Open { slot, sampling, prompt_len, history, biases, adapter, .. } = open;
    if *adapter != 0 {
        return Err(format!("slot {slot}: adapter {adapter}: adapters are not in this version"));
    }
    check_tokens(history, limits)?;
    let needed = if sampling.penalises() { *prompt_len as usize } else { 0 };
    if history.len() < needed {
        let len = history.len();
        return Err(format!("slot {slot}: a history of {len} tokens, the prompt has {needed}"));
    }
    Bias::check(biases, limits.vocab).map_err(|cause| format!("slot {slot}: {cause}"))?;
    sampling.check().map_err(|cause| format!("slot {slot}: {cause}"))
}

impl Bias {
    /// Refuses biases that are too many, out of range or out of order, and tokens that do not exist.
    pub fn check(biases: &[Self], vocab: u32) -> Result<(), String> {
        if biases.len() > BIASES_MAX {
            let len = biases.len();
            return Err(format!("logit_bias has {len} tokens, at most {BIASES_MAX} are taken"));
        }
        if let Some(bias) = biases.iter().find(|bias| bias.token >= vocab) {
            let token = bias.token;
            return Err(format!(
                "logit_bias: token {token} is not below the vocabulary of {vocab}"
            ));
        }
        if let Some(bias) = biases.iter().find(|bias| !(-100.0..=100.0).contains(&bias.value)) {
            let Self { token, value } = bias;
            return Err(format!("logit_bias of token {token} is {value}, not from -100 to 100"));
        }
        let wrong = biases.windows(2).find(|pair| pair[0].token >= pair[1].token);
        if let Some([one, next]) = wrong.and_then(|pair| pair.first_chunk()) {
            let (one, next) = (one.token, next.token);
            let why = if one == next { "is biased twice" } else { "comes after a larger one" };
            return Err(format!("logit_bias: token {next} {why}"));
        }
        Ok(())
    }
}

impl Sampling {
    /// The parameters as plans carry them: zeros without a sign, nothing smaller than a normal
    /// number; a `top_p` of 0 leaves the likeliest token alone, which is greedy. Whatever a client or
    /// a file asked for passes here. Refuses what [`Self::check`] does.
    pub fn checked(self) -> Result<Self, String> {
        let mut sampling = self.canonical();
        if sampling.top_p == 0.0 {
            (sampling.top_p, sampling.temperature) = (1.0, 0.0);
        }
        sampling.check()?;
        Ok(sampling)
    }

    /// Refuses values out of range. An error begins with the field's name.
    pub fn check(&self) -> Result<(), String> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(format!("temperature {} is not 0 or more", self.temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(format!("top_p {} is not above 0 and at most 1", self.top_p));
        }
        // The penalty's bounds keep a logit that it divides or multiplies a number.
        for (name, value, least, most) in [
            ("min_p", self.min_p, 0.0, 1.0),
            ("repetition_penalty", self.repetition_penalty, 0.01, 100.0),
            ("presence_penalty", self.presence_penalty, -2.0, 2.0),
            ("frequency_penalty", self.frequency_penalty, -2.0, 2.0),
        ] {
            if !(least..=most).contains(&value) {
                return Err(format!("{name} {value} is not from {least} to {most}"));
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
            Row { outputs: Outputs::All, .. } => "outputs for all inputs",
            _ => "",
        };
        if !refused.is_empty() {
            return Err(format!("slot {}: {refused} are not in this version", row.slot));
        }
        if row.logprobs > 1 + TOP_LOGPROBS_MAX || u32::from(row.logprobs) > 1 + limits.vocab {
            return Err(format!("slot {}: {} logprobs are too many", row.slot, row.logprobs));
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

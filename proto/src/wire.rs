//! Conversion between the plain types and the prost types, the only place where both meet; results
//! in `wire/result.rs`.
//!
//! Going out never fails; coming in fails only where a value has no plain twin. Meaning is checked
//! afterwards, by `Plan::check` and `Masks::check`.

mod result;

use crate::cluster as pb;
use crate::ids::{BlockId, Epoch, GroupId, KvGroup, SlotId, StepId};
use crate::masks::{Mask, Masks};
use crate::plan::{Bias, BlockGrant, Input, Open, Outputs, Plan, Row, Rows, Sampling, Start};

impl From<&Plan> for pb::Plan {
    fn from(plan: &Plan) -> Self {
        let (same_rows, rows) = match &plan.rows {
            Rows::Same => (true, Vec::new()),
            Rows::List(rows) => (false, rows.iter().map(pb::Row::from).collect()),
        };
        Self {
            group: plan.group.0,
            epoch: plan.epoch.0,
            step: plan.step.0,
            close: plan.close.iter().map(|slot| slot.0).collect(),
            open: plan.open.iter().map(pb::Open::from).collect(),
            blocks: plan.blocks.iter().map(pb::Blocks::from).collect(),
            same_rows,
            rows,
            masked: plan.masked,
        }
    }
}

impl TryFrom<pb::Plan> for Plan {
    type Error = String;

    fn try_from(plan: pb::Plan) -> Result<Self, String> {
        let rows = match (plan.same_rows, plan.rows) {
            (true, rows) if rows.is_empty() => Rows::Same,
            (true, _) => return Err(format!("step {}: same_rows with rows", plan.step)),
            (false, rows) => {
                Rows::List(rows.into_iter().map(Row::try_from).collect::<Result<_, _>>()?)
            }
        };
        Ok(Self {
            group: GroupId(plan.group),
            epoch: Epoch(plan.epoch),
            step: StepId(plan.step),
            close: plan.close.into_iter().map(SlotId).collect(),
            open: plan.open.into_iter().map(Open::try_from).collect::<Result<_, _>>()?,
            blocks: plan.blocks.into_iter().map(BlockGrant::from).collect(),
            rows,
            masked: plan.masked,
        })
    }
}

impl From<&Open> for pb::Open {
    fn from(open: &Open) -> Self {
        let s = &open.sampling;
        Self {
            slot: open.slot.0,
            sampling: Some(pb::Sampling {
                temperature: s.temperature,
                top_k: s.top_k,
                top_p: s.top_p,
                min_p: s.min_p,
                repetition_penalty: s.repetition_penalty,
                presence_penalty: s.presence_penalty,
                frequency_penalty: s.frequency_penalty,
            }),
            seed: open.seed,
            choice: open.choice,
            prompt_len: open.prompt_len,
            history: open.history.clone(),
            biases: open.biases.iter().map(pb::Bias::from).collect(),
            adapter: open.adapter,
        }
    }
}

impl TryFrom<pb::Open> for Open {
    type Error = String;

    fn try_from(open: pb::Open) -> Result<Self, String> {
        let Some(s) = open.sampling else {
            return Err(format!("slot {}: opened without sampling", open.slot));
        };
        Ok(Self {
            slot: SlotId(open.slot),
            sampling: Sampling {
                temperature: s.temperature,
                top_k: s.top_k,
                top_p: s.top_p,
                min_p: s.min_p,
                repetition_penalty: s.repetition_penalty,
                presence_penalty: s.presence_penalty,
                frequency_penalty: s.frequency_penalty,
            },
            seed: open.seed,
            choice: open.choice,
            prompt_len: open.prompt_len,
            history: open.history,
            biases: open.biases.into_iter().map(Bias::from).collect(),
            adapter: open.adapter,
        })
    }
}

impl From<&Bias> for pb::Bias {
    fn from(bias: &Bias) -> Self {
        Self { token: bias.token, value: bias.value }
    }
}

impl From<pb::Bias> for Bias {
    fn from(bias: pb::Bias) -> Self {
        Self { token: bias.token, value: bias.value }
    }
}

impl From<&BlockGrant> for pb::Blocks {
    fn from(grant: &BlockGrant) -> Self {
        Self {
            slot: grant.slot.0,
            kv_group: grant.kv_group.0,
            ids: grant.ids.iter().map(|id| id.0).collect(),
        }
    }
}

impl From<pb::Blocks> for BlockGrant {
    fn from(grant: pb::Blocks) -> Self {
        Self {
            slot: SlotId(grant.slot),
            kv_group: KvGroup(grant.kv_group),
            ids: grant.ids.into_iter().map(BlockId).collect(),
        }
    }
}

impl From<&Row> for pb::Row {
    fn from(row: &Row) -> Self {
        let outputs = match row.outputs {
            Outputs::None => pb::Outputs::None,
            Outputs::Last => pb::Outputs::Last,
            Outputs::All => pb::Outputs::All,
        };
        Self {
            slot: row.slot.0,
            tokens: match &row.input {
                Input::Tokens(tokens) => tokens.clone(),
                Input::LastSample => Vec::new(),
            },
            start: match row.start {
                Start::At(position) => Some(position),
                Start::AfterLast => None,
            },
            outputs: outputs.into(),
            draft: row.draft.into(),
            logprobs: row.logprobs.into(),
        }
    }
}

impl TryFrom<pb::Row> for Row {
    type Error = String;

    fn try_from(row: pb::Row) -> Result<Self, String> {
        let outputs = match pb::Outputs::try_from(row.outputs)
            .map_err(|_| format!("slot {}: outputs {} unknown", row.slot, row.outputs))?
        {
            pb::Outputs::None => Outputs::None,
            pb::Outputs::Last => Outputs::Last,
            pb::Outputs::All => Outputs::All,
        };
        let small = |name: &str, value: u32| {
            u8::try_from(value)
                .map_err(|_| format!("slot {}: {name} {value} is too large", row.slot))
        };
        Ok(Self {
            draft: small("draft", row.draft)?,
            logprobs: small("logprobs", row.logprobs)?,
            slot: SlotId(row.slot),
            start: row.start.map_or(Start::AfterLast, Start::At),
            outputs,
            input: if row.tokens.is_empty() {
                Input::LastSample
            } else {
                Input::Tokens(row.tokens)
            },
        })
    }
}

impl From<&Masks> for pb::Masks {
    fn from(masks: &Masks) -> Self {
        let mask = |mask: &Mask| pb::Mask { output: mask.output, bits: mask.bits.clone() };
        Self {
            group: masks.group.0,
            epoch: masks.epoch.0,
            step: masks.step.0,
            rows: masks.rows.iter().map(mask).collect(),
        }
    }
}

impl From<pb::Masks> for Masks {
    fn from(masks: pb::Masks) -> Self {
        let mask = |mask: pb::Mask| Mask { output: mask.output, bits: mask.bits };
        Self {
            group: GroupId(masks.group),
            epoch: Epoch(masks.epoch),
            step: StepId(masks.step),
            rows: masks.rows.into_iter().map(mask).collect(),
        }
    }
}

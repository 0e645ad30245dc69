//! Conversion between the plain types and the prost types, the only place where both meet; results
//! in `wire/result.rs`.
//!
//! Going out never fails; coming in fails only where a value has no plain twin. What goes out comes
//! in with the same bits, whatever they are, so that both ends hash the same. Meaning is checked
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
        Self {
            slot: open.slot.0,
            sampling: Some(pb::Sampling::from(&open.sampling)),
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
        let slot = open.slot;
        let sampling = open.sampling.ok_or_else(|| "opened without sampling".to_owned());
        let sampling = sampling.and_then(Sampling::try_from);
        let biases = open.biases.into_iter().map(Bias::try_from).collect::<Result<_, _>>();
        Ok(Self {
            slot: SlotId(slot),
            sampling: sampling.map_err(|cause| format!("slot {slot}: {cause}"))?,
            seed: open.seed,
            choice: open.choice,
            prompt_len: open.prompt_len,
            history: open.history,
            biases: biases.map_err(|cause| format!("slot {slot}: {cause}"))?,
            adapter: open.adapter,
        })
    }
}

impl From<&Sampling> for pb::Sampling {
    fn from(sampling: &Sampling) -> Self {
        Self {
            temperature: Some(sampling.temperature),
            top_k: sampling.top_k,
            top_p: Some(sampling.top_p),
            min_p: Some(sampling.min_p),
            repetition_penalty: Some(sampling.repetition_penalty),
            presence_penalty: Some(sampling.presence_penalty),
            frequency_penalty: Some(sampling.frequency_penalty),
        }
    }
}

impl TryFrom<pb::Sampling> for Sampling {
    type Error = String;

    fn try_from(sampling: pb::Sampling) -> Result<Self, String> {
        Ok(Self {
            temperature: present("temperature", sampling.temperature)?,
            top_k: sampling.top_k,
            top_p: present("top_p", sampling.top_p)?,
            min_p: present("min_p", sampling.min_p)?,
            repetition_penalty: present("repetition_penalty", sampling.repetition_penalty)?,
            presence_penalty: present("presence_penalty", sampling.presence_penalty)?,
            frequency_penalty: present("frequency_penalty", sampling.frequency_penalty)?,
        })
    }
}

impl From<&Bias> for pb::Bias {
    fn from(bias: &Bias) -> Self {
        Self { token: bias.token, value: Some(bias.value) }
    }
}

impl TryFrom<pb::Bias> for Bias {
    type Error = String;

    fn try_from(bias: pb::Bias) -> Result<Self, String> {
        Ok(Self { token: bias.token, value: present("a bias", bias.value)? })
    }
}

fn present(name: &str, value: Option<f32>) -> Result<f32, String> {
    value.ok_or_else(|| format!("{name} has no value"))
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

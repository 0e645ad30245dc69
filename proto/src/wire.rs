//! Conversion between the plain types and the prost types, the only place where both meet. Results
//! are in `wire/result.rs`.
//!
//! Going out never fails; coming in fails only where a value has no plain twin ([`WireError`]).
//! What goes out comes in with the same bits, whatever they are, so that both ends hash the same.
//! Meaning is checked afterwards, by `Plan::check` and `Masks::check`. Structs are taken apart
//! field by field, so that a field which is forgotten here does not compile.

mod error;
mod result;

pub use error::WireError;

use crate::cluster as pb;
use crate::dtype::KvDtype;
use crate::ids::{BlockId, Epoch, KvGroup, ReplicaId, SlotId, StepId};
use crate::masks::{Mask, Masks};
use crate::plan::{Input, NewBlocks, Open, Outputs, Plan, Row, Rows};
use crate::sampling::{Bias, Sampling};

impl From<&Plan> for pb::Plan {
    fn from(plan: &Plan) -> Self {
        let Plan { replica, epoch, step, close, open, blocks, rows, masked } = plan;
        let (same_rows, rows) = match rows {
            Rows::Same => (true, Vec::new()),
            Rows::List(rows) => (false, rows.iter().map(pb::Row::from).collect()),
        };
        Self {
            replica: replica.0,
            epoch: epoch.0,
            step: step.0,
            close: close.iter().map(|slot| slot.0).collect(),
            open: open.iter().map(pb::Open::from).collect(),
            blocks: blocks.iter().map(pb::NewBlocks::from).collect(),
            same_rows,
            rows,
            masked: *masked,
        }
    }
}

impl TryFrom<pb::Plan> for Plan {
    type Error = WireError;

    fn try_from(plan: pb::Plan) -> Result<Self, WireError> {
        let pb::Plan { replica, epoch, step, close, open, blocks, same_rows, rows, masked } = plan;
        let rows = match (same_rows, rows) {
            (true, rows) if rows.is_empty() => Rows::Same,
            (true, _) => return Err(WireError::SameRowsWithRows { step }),
            (false, rows) => {
                Rows::List(rows.into_iter().map(Row::try_from).collect::<Result<_, _>>()?)
            }
        };
        Ok(Self {
            replica: ReplicaId(replica),
            epoch: Epoch(epoch),
            step: StepId(step),
            close: close.into_iter().map(SlotId).collect(),
            open: open.into_iter().map(Open::try_from).collect::<Result<_, _>>()?,
            blocks: blocks.into_iter().map(NewBlocks::from).collect(),
            rows,
            masked,
        })
    }
}

impl From<&Open> for pb::Open {
    fn from(open: &Open) -> Self {
        let Open { slot, sampling, seed, choice, prompt_len, history, biases } = open;
        Self {
            slot: slot.0,
            sampling: Some(pb::Sampling::from(sampling)),
            seed: *seed,
            choice: *choice,
            prompt_len: *prompt_len,
            history: history.clone(),
            biases: biases.iter().map(pb::Bias::from).collect(),
        }
    }
}

impl TryFrom<pb::Open> for Open {
    type Error = WireError;

    fn try_from(open: pb::Open) -> Result<Self, WireError> {
        let pb::Open { slot, sampling, seed, choice, prompt_len, history, biases } = open;
        let sampling = sampling.ok_or(WireError::NoValue { slot, field: "sampling" })?;
        Ok(Self {
            slot: SlotId(slot),
            sampling: sampling_of(slot, sampling)?,
            seed,
            choice,
            prompt_len,
            history,
            biases: biases.into_iter().map(|bias| bias_of(slot, bias)).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Sampling> for pb::Sampling {
    fn from(sampling: &Sampling) -> Self {
        let Sampling {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
        } = *sampling;
        Self {
            temperature: Some(temperature),
            top_k,
            top_p: Some(top_p),
            min_p: Some(min_p),
            repetition_penalty: Some(repetition_penalty),
            presence_penalty: Some(presence_penalty),
            frequency_penalty: Some(frequency_penalty),
        }
    }
}

fn sampling_of(slot: u32, sampling: pb::Sampling) -> Result<Sampling, WireError> {
    let pb::Sampling {
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
    } = sampling;
    let float = |field, value: Option<f32>| value.ok_or(WireError::NoValue { slot, field });
    Ok(Sampling {
        temperature: float("temperature", temperature)?,
        top_k,
        top_p: float("top_p", top_p)?,
        min_p: float("min_p", min_p)?,
        repetition_penalty: float("repetition_penalty", repetition_penalty)?,
        presence_penalty: float("presence_penalty", presence_penalty)?,
        frequency_penalty: float("frequency_penalty", frequency_penalty)?,
    })
}

impl From<&Bias> for pb::Bias {
    fn from(bias: &Bias) -> Self {
        let Bias { token, value } = *bias;
        Self { token, value: Some(value) }
    }
}

fn bias_of(slot: u32, bias: pb::Bias) -> Result<Bias, WireError> {
    let pb::Bias { token, value } = bias;
    let value = value.ok_or(WireError::NoValue { slot, field: "a bias" })?;
    Ok(Bias { token, value })
}

impl From<&NewBlocks> for pb::NewBlocks {
    fn from(new_blocks: &NewBlocks) -> Self {
        let NewBlocks { slot, kv_group, ids } = new_blocks;
        Self { slot: slot.0, kv_group: kv_group.0, ids: ids.iter().map(|id| id.0).collect() }
    }
}

impl From<pb::NewBlocks> for NewBlocks {
    fn from(blocks: pb::NewBlocks) -> Self {
        let pb::NewBlocks { slot, kv_group, ids } = blocks;
        Self {
            slot: SlotId(slot),
            kv_group: KvGroup(kv_group),
            ids: ids.into_iter().map(BlockId).collect(),
        }
    }
}

impl From<&Row> for pb::Row {
    fn from(row: &Row) -> Self {
        let Row { slot, input, start, outputs, logprobs } = row;
        let outputs = match outputs {
            Outputs::None => pb::Outputs::None,
            Outputs::Last => pb::Outputs::Last,
            Outputs::All => pb::Outputs::All,
        };
        Self {
            slot: slot.0,
            tokens: match input {
                Input::Tokens(tokens) => tokens.clone(),
                Input::LastSample => Vec::new(),
            },
            start: *start,
            outputs: outputs.into(),
            logprobs: u32::from(*logprobs),
        }
    }
}

impl TryFrom<pb::Row> for Row {
    type Error = WireError;

    fn try_from(row: pb::Row) -> Result<Self, WireError> {
        let pb::Row { slot, tokens, start, outputs, logprobs } = row;
        Ok(Self {
            slot: SlotId(slot),
            input: if tokens.is_empty() { Input::LastSample } else { Input::Tokens(tokens) },
            start,
            outputs: match pb::Outputs::try_from(outputs) {
                Ok(pb::Outputs::None) => Outputs::None,
                Ok(pb::Outputs::Last) => Outputs::Last,
                Ok(pb::Outputs::All) => Outputs::All,
                Err(_) => return Err(WireError::Outputs { slot, value: outputs }),
            },
            logprobs: u8::try_from(logprobs)
                .map_err(|_| WireError::Logprobs { slot, value: logprobs })?,
        })
    }
}

impl From<&Masks> for pb::Masks {
    fn from(masks: &Masks) -> Self {
        let Masks { replica, epoch, step, rows } = masks;
        let mask = |Mask { output, bits }: &Mask| pb::Mask { output: *output, bits: bits.clone() };
        Self {
            replica: replica.0,
            epoch: epoch.0,
            step: step.0,
            rows: rows.iter().map(mask).collect(),
        }
    }
}

impl From<pb::Masks> for Masks {
    fn from(masks: pb::Masks) -> Self {
        let pb::Masks { replica, epoch, step, rows } = masks;
        let mask = |pb::Mask { output, bits }: pb::Mask| Mask { output, bits };
        Self {
            replica: ReplicaId(replica),
            epoch: Epoch(epoch),
            step: StepId(step),
            rows: rows.into_iter().map(mask).collect(),
        }
    }
}

impl From<KvDtype> for pb::KvDtype {
    fn from(dtype: KvDtype) -> Self {
        match dtype {
            KvDtype::F32 => Self::F32,
            KvDtype::BF16 => Self::Bf16,
            KvDtype::F16 => Self::F16,
        }
    }
}

impl TryFrom<pb::KvDtype> for KvDtype {
    type Error = WireError;

    fn try_from(dtype: pb::KvDtype) -> Result<Self, WireError> {
        match dtype {
            pb::KvDtype::Unspecified => Err(WireError::KvDtype),
            pb::KvDtype::F32 => Ok(Self::F32),
            pb::KvDtype::Bf16 => Ok(Self::BF16),
            pb::KvDtype::F16 => Ok(Self::F16),
        }
    }
}

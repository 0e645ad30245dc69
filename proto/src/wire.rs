//! Conversion between the plain types and the prost types, the only place where both meet.
//!
//! Going out never fails; coming in fails only where a value has no plain twin. Meaning is checked
//! afterwards, by `Plan::check`.

use crate::cluster as pb;
use crate::ids::{BlockId, Epoch, GroupId, KvGroup, Rank, SlotId, StepId};
use crate::plan::{Bias, BlockGrant, Input, Open, Outputs, Plan, Row, Rows, Sampling, Start};
use crate::result::{Logprob, RowResult, RowStatus, StepResult, Tokens};

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

impl From<&StepResult> for pb::StepResult {
    fn from(result: &StepResult) -> Self {
        Self {
            group: result.group.0,
            epoch: result.epoch.0,
            step: result.step.0,
            rank: result.rank.0,
            plan_hash: result.plan_hash,
            digest: result.digest,
            rows: Some(columns(&result.rows)),
            step_us: result.step_us,
        }
    }
}

impl TryFrom<pb::StepResult> for StepResult {
    type Error = String;

    fn try_from(result: pb::StepResult) -> Result<Self, String> {
        let rows = result.rows.unwrap_or_default();
        Ok(Self {
            group: GroupId(result.group),
            epoch: Epoch(result.epoch),
            step: StepId(result.step),
            rank: Rank(result.rank),
            plan_hash: result.plan_hash,
            digest: result.digest,
            rows: row_results(&rows).map_err(|cause| format!("step {}: {cause}", result.step))?,
            step_us: result.step_us,
        })
    }
}

fn columns(rows: &[RowResult]) -> pb::RowResults {
    // A row's lists are bounded by drafts and logprobs, both of which are bytes in a plan.
    let len = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    let status = |row: &RowResult| match row.status {
        RowStatus::Ok => pb::RowStatus::Ok.into(),
        RowStatus::NonFinite => pb::RowStatus::NonFinite.into(),
    };
    pb::RowResults {
        status: rows.iter().map(status).collect(),
        tokens_len: rows.iter().map(|row| len(row.tokens.len())).collect(),
        tokens: rows.iter().flat_map(|row| row.tokens.iter().copied()).collect(),
        logprobs_len: rows.iter().map(|row| len(row.logprobs.len())).collect(),
        logprobs: rows.iter().flat_map(|row| &row.logprobs).map(|one| one.logprob).collect(),
        logprob_tokens: rows.iter().flat_map(|row| &row.logprobs).map(|one| one.token).collect(),
    }
}

fn row_results(columns: &pb::RowResults) -> Result<Vec<RowResult>, String> {
    let rows = columns.status.len();
    if columns.tokens_len.len() != rows || columns.logprobs_len.len() != rows {
        let (tokens, logprobs) = (columns.tokens_len.len(), columns.logprobs_len.len());
        return Err(format!("{rows} rows, token counts of {tokens}, logprob counts of {logprobs}"));
    }
    if columns.logprobs.len() != columns.logprob_tokens.len() {
        let (values, tokens) = (columns.logprobs.len(), columns.logprob_tokens.len());
        return Err(format!("{values} logprobs of {tokens} tokens"));
    }
    let (mut tokens, mut logprobs) = (&columns.tokens[..], &columns.logprobs[..]);
    let mut logprob_tokens = &columns.logprob_tokens[..];
    let lens = columns.tokens_len.iter().zip(&columns.logprobs_len);
    let mut results = Vec::with_capacity(rows);
    for (status, (tokens_len, logprobs_len)) in columns.status.iter().zip(lens) {
        let status = match pb::RowStatus::try_from(*status) {
            Ok(pb::RowStatus::Ok) => RowStatus::Ok,
            Ok(pb::RowStatus::NonFinite) => RowStatus::NonFinite,
            Err(_) => return Err(format!("row status {status} unknown")),
        };
        let tokens = Tokens::from_slice(take(&mut tokens, *tokens_len)?);
        let logprobs = take(&mut logprobs, *logprobs_len)?.iter();
        let logprobs = logprobs.zip(take(&mut logprob_tokens, *logprobs_len)?);
        let one = |(logprob, token): (&f32, &u32)| Logprob { token: *token, logprob: *logprob };
        results.push(RowResult { status, tokens, logprobs: logprobs.map(one).collect() });
    }
    if !tokens.is_empty() || !logprobs.is_empty() {
        return Err(format!("{} tokens of no row", tokens.len().max(logprobs.len())));
    }
    Ok(results)
}

/// The next `len` values of a column.
fn take<'a, T>(column: &mut &'a [T], len: u32) -> Result<&'a [T], String> {
    let (head, rest) = column
        .split_at_checked(len as usize)
        .ok_or_else(|| format!("a row of {len} values where {} are left", column.len()))?;
    *column = rest;
    Ok(head)
}

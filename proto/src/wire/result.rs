//! Results on the wire: rows by column, so that hundreds of them take few allocations.

use crate::cluster as pb;
use crate::ids::{Epoch, GroupId, Rank, StepId};
use crate::result::{Logprob, RowResult, RowStatus, StepResult, Tokens};

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

//! Results on the wire: rows by column, so that hundreds of them take few allocations.

use super::error::WireError;
use crate::cluster as pb;
use crate::ids::{Epoch, Rank, ReplicaId, StepId};
use crate::result::{Logprob, RowResult, RowStatus, StepResult, Tokens};

impl From<&StepResult> for pb::StepResult {
    fn from(result: &StepResult) -> Self {
        let StepResult { replica, epoch, step, rank, plan_hash, digest, rows, step_us } = result;
        Self {
            replica: replica.0,
            epoch: epoch.0,
            step: step.0,
            rank: rank.0,
            plan_hash: *plan_hash,
            digest: *digest,
            rows: Some(columns(rows)),
            step_us: *step_us,
        }
    }
}

impl TryFrom<pb::StepResult> for StepResult {
    type Error = WireError;

    fn try_from(result: pb::StepResult) -> Result<Self, WireError> {
        let pb::StepResult { replica, epoch, step, rank, plan_hash, digest, rows, step_us } =
            result;
        Ok(Self {
            replica: ReplicaId(replica),
            epoch: Epoch(epoch),
            step: StepId(step),
            rank: Rank(rank),
            plan_hash,
            digest,
            rows: row_results(step, &rows.unwrap_or_default())?,
            step_us,
        })
    }
}

fn columns(rows: &[RowResult]) -> pb::RowResults {
    // A row's lists are bounded by what a plan can ask of it.
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

fn row_results(step: u64, columns: &pb::RowResults) -> Result<Vec<RowResult>, WireError> {
    let pb::RowResults { status, tokens_len, tokens, logprobs_len, logprobs, logprob_tokens } =
        columns;
    let rows = status.len();
    if tokens_len.len() != rows || logprobs_len.len() != rows {
        let (tokens, logprobs) = (tokens_len.len(), logprobs_len.len());
        return Err(WireError::ColumnLengths { step, rows, tokens, logprobs });
    }
    if logprobs.len() != logprob_tokens.len() {
        let (logprobs, tokens) = (logprobs.len(), logprob_tokens.len());
        return Err(WireError::LogprobTokens { step, logprobs, tokens });
    }
    let (mut tokens, mut logprobs) = (&tokens[..], &logprobs[..]);
    let mut logprob_tokens = &logprob_tokens[..];
    let mut results = Vec::with_capacity(rows);
    for (status, (tokens_len, logprobs_len)) in
        status.iter().zip(tokens_len.iter().zip(logprobs_len))
    {
        let status = match pb::RowStatus::try_from(*status) {
            Ok(pb::RowStatus::Ok) => RowStatus::Ok,
            Ok(pb::RowStatus::NonFinite) => RowStatus::NonFinite,
            Err(_) => return Err(WireError::RowStatus { step, value: *status }),
        };
        let tokens = Tokens::from_slice(take(step, &mut tokens, *tokens_len)?);
        let logprobs = take(step, &mut logprobs, *logprobs_len)?.iter();
        let logprobs = logprobs.zip(take(step, &mut logprob_tokens, *logprobs_len)?);
        let one = |(logprob, token): (&f32, &u32)| Logprob { token: *token, logprob: *logprob };
        results.push(RowResult { status, tokens, logprobs: logprobs.map(one).collect() });
    }
    if !tokens.is_empty() || !logprobs.is_empty() {
        return Err(WireError::LeftOver { step, values: tokens.len().max(logprobs.len()) });
    }
    Ok(results)
}

/// The next `len` values of a column.
fn take<'a, T>(step: u64, column: &mut &'a [T], len: u32) -> Result<&'a [T], WireError> {
    let left = column.len();
    let (head, rest) =
        column.split_at_checked(len as usize).ok_or(WireError::ShortColumn { step, len, left })?;
    *column = rest;
    Ok(head)
}

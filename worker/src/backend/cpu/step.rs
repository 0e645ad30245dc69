//! The step under way: its batch, what it sampled, and the digest that ranks compare.

use std::sync::Arc;

use binfer_proto::Token;
use xxhash_rust::xxh3::Xxh3Default;

use crate::backend::{BackendError, MemoryPlan, Sampled, StepOutput};
use crate::batch::{Batch, BatchRow, TokenInput};

/// A step between upload and collect.
#[derive(Default)]
pub(super) struct Step {
    pub(super) batch: Arc<Batch>,
    pub(super) sampled: Vec<Sampled>,
    hidden: Xxh3Default,
}

impl Step {
    /// Begins a step.
    pub(super) fn begin(
        &mut self,
        batch: Arc<Batch>,
        plan: &MemoryPlan,
    ) -> Result<(), BackendError> {
        check(&batch, plan).map_err(|cause| BackendError::Args { operation: "upload", cause })?;
        self.batch = batch;
        self.sampled.clear();
        self.hidden.reset();
        Ok(())
    }

    /// Takes the hidden state of an output, after the last norm, into the digest.
    pub(super) fn hash_hidden(&mut self, hidden: &[f32]) {
        for chunk in hidden.chunks(64) {
            let mut bytes = [0; 256];
            for (to, x) in bytes.as_chunks_mut().0.iter_mut().zip(chunk) {
                *to = x.to_le_bytes();
            }
            self.hidden.update(&bytes[..4 * chunk.len()]);
        }
    }

    /// What came out.
    pub(super) fn output(&self) -> StepOutput {
        let mut hash = self.hidden.clone();
        for sampled in &self.sampled {
            let token = if sampled.finite { sampled.token } else { Token::MAX };
            hash.update(&token.to_le_bytes());
        }
        StepOutput { sampled: self.sampled.clone(), digest: hash.digest() }
    }
}

/// Whether the arrays of a batch agree with each other and with what was planned for.
fn check(batch: &Batch, plan: &MemoryPlan) -> Result<(), String> {
    let tokens = batch.tokens.len();
    if batch.positions.len() != tokens {
        return Err(format!("{tokens} tokens, {} positions", batch.positions.len()));
    }
    let covered = batch.rows.iter().try_fold(0, |next, row| check_row(batch, row, next))?;
    if covered != tokens {
        return Err(format!("rows cover {covered} of {tokens} tokens"));
    }
    let slot_within = |slot: usize| slot < plan.slots_max;
    let slots = batch.tokens.iter().filter_map(|token| match token {
        TokenInput::LastSample(slot) => Some(slot.index()),
        TokenInput::Known(_) => None,
    });
    let outputs = &batch.outputs;
    let mut slots = slots.chain(outputs.iter().map(|output| output.slot.index()));
    if !slots.all(slot_within) {
        return Err(format!("a slot is not below {}", plan.slots_max));
    }
    if outputs.len() > plan.outputs_max || outputs.iter().any(|output| output.token >= tokens) {
        return Err(format!("outputs of a step of {tokens} tokens: {outputs:?}"));
    }
    Ok(())
}

/// A row begins at token `next` and counts its positions up; returns where the next one begins.
fn check_row(batch: &Batch, row: &BatchRow, next: usize) -> Result<usize, String> {
    let end = next + row.count;
    let positions = batch.positions.get(next..end).unwrap_or_default();
    let mut expected = (row.start..).zip(positions);
    let in_order = expected.all(|(wanted, position)| *position as usize == wanted);
    if row.first != next || positions.len() != row.count || !in_order {
        return Err(format!("row of slot {} is not what follows token {next}", row.slot));
    }
    Ok(end)
}

//! The step under way: its batch, what it sampled, and the digest that ranks compare.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use binfer_proto::{Logprob, Mask, Token};
use xxhash_rust::xxh3::Xxh3Default;

use crate::backend::check_batch::{check_batch, check_masked, check_masks};
use crate::backend::{BackendError, MemoryLayout, Sampled, StepOutcome, Ticket};
use crate::batch::Batch;

/// A step between upload and collect.
#[derive(Default)]
pub(super) struct CpuStep {
    pub(super) batch: Arc<Batch>,
    pub(super) sampled: Vec<Sampled>,
    pub(super) logprobs: Vec<Logprob>,
    /// Once they have come, of a step that is masked.
    masks: Option<Vec<Mask>>,
    hidden: Xxh3Default,
    /// Where times are wanted: when they began to count, and those of the step under way.
    stamps: Option<(Instant, Vec<u64>)>,
    /// Steps committed so far.
    committed: u64,
    /// Outcomes that nobody has collected yet, in order.
    outcomes: VecDeque<(Ticket, StepOutcome)>,
}

impl CpuStep {
    /// From now on steps note times, or do not.
    pub(super) fn note_times(&mut self, wanted: bool) {
        self.stamps = wanted.then(|| (Instant::now(), Vec::new()));
    }

    /// Notes the time, if anybody wants it.
    pub(super) fn stamp(&mut self) {
        if let Some((zero, stamps)) = &mut self.stamps {
            stamps.push(u64::try_from(zero.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// Begins a step.
    pub(super) fn begin(
        &mut self,
        batch: Arc<Batch>,
        layout: &MemoryLayout,
    ) -> Result<(), BackendError> {
        check_batch(&batch, layout)?;
        self.batch = batch;
        self.masks = None;
        self.sampled.clear();
        self.logprobs.clear();
        self.hidden.reset();
        self.stamp();
        Ok(())
    }

    /// Takes the step's masks.
    pub(super) fn mask(&mut self, masks: Vec<Mask>, vocab: usize) -> Result<(), BackendError> {
        check_masks(&masks, (&self.batch, vocab), self.masks.is_some())?;
        self.masks = Some(masks);
        Ok(())
    }

    /// The token masks of its outputs, before they are sampled.
    pub(super) fn take_masks(&mut self) -> Result<Vec<Mask>, BackendError> {
        check_masked("sample", &self.batch, self.masks.is_some())?;
        Ok(self.masks.take().unwrap_or_default())
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

    /// Ends the step: its outcome waits to be collected.
    pub(super) fn commit(&mut self) -> Ticket {
        self.committed += 1;
        self.stamp();
        let stamps_ns = self.stamps.as_mut().map(|(_, stamps)| std::mem::take(stamps));
        let output = StepOutcome { stamps_ns: stamps_ns.unwrap_or_default(), ..self.output() };
        let ticket = Ticket(self.committed);
        self.outcomes.push_back((ticket, output));
        ticket
    }

    /// The outcome of a committed step, in the order of steps.
    pub(super) fn collect(&mut self, ticket: Ticket) -> Result<StepOutcome, BackendError> {
        match self.outcomes.pop_front() {
            Some((next, output)) if next == ticket => Ok(output),
            next => {
                let cause = format!("{ticket:?} where {:?} is next", next.map(|next| next.0));
                Err(BackendError::Args { operation: "collect", cause })
            }
        }
    }

    fn output(&self) -> StepOutcome {
        let mut hash = self.hidden.clone();
        for sampled in &self.sampled {
            let token = if sampled.finite { sampled.token } else { Token::MAX };
            hash.update(&token.to_le_bytes());
        }
        let (sampled, logprobs) = (self.sampled.clone(), self.logprobs.clone());
        StepOutcome { sampled, logprobs, digest: hash.digest(), stamps_ns: Vec::new() }
    }
}

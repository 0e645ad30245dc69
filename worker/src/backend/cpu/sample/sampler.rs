//! An output from its logits to its token: what its slot has seen, the draw, logprobs.

use binfer_proto::Logprob;

use super::{Draw, History, Scratch, draw, logprobs};
use crate::backend::Sampled;
use crate::batch::{BatchOutput, SlotTokens};

/// Draws for all slots of a backend.
#[derive(Debug, Default)]
pub struct Sampler {
    history: History,
    scratch: Scratch,
    /// Logits of a row, adjusted.
    adjusted: Vec<f32>,
}

impl Sampler {
    /// For `slots` slots and a vocabulary; no draw allocates.
    pub fn new(slots: usize, vocab: usize) -> Self {
        Self {
            history: History::new(slots, vocab),
            scratch: Scratch::for_vocab(vocab),
            adjusted: Vec::with_capacity(vocab),
        }
    }

    /// A slot whose logits are adjusted begins anew.
    pub fn begin(&mut self, tokens: &SlotTokens) {
        self.history.begin(tokens);
    }

    /// Draws from the raw `logits` of `output`, remembers the token where a penalty needs it, and
    /// appends the logprobs that are wanted to `found`; none where the logits are not finite.
    pub fn sample(
        &mut self,
        output: &BatchOutput,
        logits: &[f32],
        found: &mut Vec<Logprob>,
    ) -> Sampled {
        let BatchOutput { sampling, seed, choice, position, .. } = output;
        let how = Draw { sampling, seed: *seed, choice: *choice, position: *position };
        let adjusted = self.history.adjusted(output, logits, &mut self.adjusted);
        let sampled = draw(adjusted, &how, &mut self.scratch);
        if !sampled.finite {
            return sampled;
        }
        self.history.count(output, sampled.token);
        if let Some(tops) = output.logprobs.checked_sub(1) {
            logprobs(logits, sampled.token, tops.into(), &mut self.scratch, found);
        }
        sampled
    }
}

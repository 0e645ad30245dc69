//! How often each slot's tokens occurred, kept where penalties or biases need it. The bits of a
//! count are those of `backend/penalties.rs`.

use binfer_proto::{Bias, Token};

use crate::backend::penalties;
use crate::batch::{BatchOutput, SlotTokens};

/// Counts and biases of all slots.
#[derive(Debug, Default)]
pub(super) struct TokenCounts {
    vocab: usize,
    /// `[slot][vocab]`; written only for slots that need it.
    counts: Vec<u16>,
    /// Biases by slot.
    biases: Vec<Vec<Bias>>,
}

impl TokenCounts {
    /// Counts for `slots` slots and a vocabulary.
    pub(super) fn new(slots: usize, vocab: usize) -> Self {
        Self { vocab, counts: vec![0; slots * vocab], biases: vec![Vec::new(); slots] }
    }

    /// Opens a slot.
    pub(super) fn open(&mut self, tokens: &SlotTokens) {
        let slot = tokens.slot.index();
        penalties::open(tokens, &mut self.counts[slot * self.vocab..][..self.vocab]);
        self.biases[slot].clone_from(&tokens.biases);
    }

    /// The logits that `output` is sampled from: the given ones, or adjusted ones in `room`.
    pub(super) fn adjusted<'a>(
        &self,
        output: &BatchOutput,
        logits: &'a [f32],
        room: &'a mut Vec<f32>,
    ) -> &'a [f32] {
        if !output.is_adjusted() {
            return logits;
        }
        let slot = output.slot.index();
        let counts = &self.counts[slot * self.vocab..][..self.vocab];
        let (sampling, biases) = (&output.sampling, &self.biases[slot]);
        room.clear();
        room.extend((0..).zip(logits.iter().zip(counts)).map(|(token, (logit, count))| {
            if *count == 0 {
                return *logit;
            }
            penalties::apply(*logit, (token, *count), sampling, biases)
        }));
        room
    }

    /// Counts `token`, which `output` came to.
    pub(super) fn add_sampled(&mut self, output: &BatchOutput, token: Token) {
        if output.is_adjusted() {
            penalties::add_sampled(
                &mut self.counts[output.slot.index() * self.vocab + token as usize],
            );
        }
    }
}

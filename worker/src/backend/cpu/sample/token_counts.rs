//! How often each slot's tokens occurred, kept where penalties or biases need it. An entry's bits
//! are those of `backend/adjust.rs`.

use binfer_proto::{Bias, Token};

use crate::backend::adjust;
use crate::batch::{BatchOutput, SlotTokens};

/// Entries and biases of all slots.
#[derive(Debug, Default)]
pub(super) struct TokenCounts {
    vocab: usize,
    /// `[slot][vocab]`; written only for slots that need it.
    entries: Vec<u16>,
    /// By slot.
    biases: Vec<Vec<Bias>>,
}

impl TokenCounts {
    /// Of `slots` slots and a vocabulary.
    pub(super) fn new(slots: usize, vocab: usize) -> Self {
        Self { vocab, entries: vec![0; slots * vocab], biases: vec![Vec::new(); slots] }
    }

    /// A slot begins anew.
    pub(super) fn begin(&mut self, tokens: &SlotTokens) {
        let slot = tokens.slot.index();
        adjust::begin(tokens, &mut self.entries[slot * self.vocab..][..self.vocab]);
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
        let entries = &self.entries[slot * self.vocab..][..self.vocab];
        let (sampling, biases) = (&output.sampling, &self.biases[slot]);
        room.clear();
        room.extend((0..).zip(logits.iter().zip(entries)).map(|(token, (logit, entry))| {
            if *entry == 0 {
                return *logit;
            }
            adjust::adjusted(*logit, (token, *entry), sampling, biases)
        }));
        room
    }

    /// `output` came to `token`.
    pub(super) fn count(&mut self, output: &BatchOutput, token: Token) {
        if output.is_adjusted() {
            adjust::count(&mut self.entries[output.slot.index() * self.vocab + token as usize]);
        }
    }
}

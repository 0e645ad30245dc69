//! Token masks: which tokens a step may sample. They come after the step's plan.
//!
//! A plan that says `masked` is followed by one [`Masks`] with all masks of its step, before those
//! of any later step; plans behind it may come first. A worker runs the step's forward meanwhile.
//! An output without a mask is unrestricted. Masks are not hashed: ranks that got different masks
//! sample different tokens, which their digests show. Deliberately absent: grammars, and what a
//! masked logit becomes.

use crate::ids::{Epoch, ReplicaId, StepId, Token};

/// All masks of one step. As a message it is bounded by [`crate::MESSAGE_BYTES_MAX`], which is
/// 3,500 masks of a vocabulary of 152 thousand tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masks {
    /// The replica.
    pub replica: ReplicaId,
    /// The replica's life in which the plan was made.
    pub epoch: Epoch,
    /// The plan's step.
    pub step: StepId,
    /// The masks, by rising output.
    pub rows: Vec<Mask>,
}

/// The tokens that one output may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// Index of the output, counted over the rows of the step that sample a token.
    pub output: u32,
    /// A bit for each token of the vocabulary, set if the token may be sampled. Token `t` has bit
    /// `t % 8`, counted from the lowest, of byte `t / 8`.
    pub bits: Vec<u8>,
}

/// Why a mask is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// The step has no such output.
    #[error("output {output} is not below {outputs}")]
    NoOutput {
        /// The mask's output.
        output: u32,
        /// Outputs of the step.
        outputs: usize,
    },
    /// Outputs do not rise.
    #[error("output {output} comes after output {before}")]
    Order {
        /// The mask's output.
        output: u32,
        /// Output of the mask before it.
        before: u32,
    },
    /// The mask is not one of this vocabulary.
    #[error("output {output}: {len} bytes of bits where {needed} are due")]
    Length {
        /// The mask's output.
        output: u32,
        /// Bytes of its bits.
        len: usize,
        /// Bytes that the vocabulary needs.
        needed: usize,
    },
    /// A bit is set for a token that does not exist.
    #[error("output {output}: a bit past the vocabulary of {vocab}")]
    PastVocab {
        /// The mask's output.
        output: u32,
        /// Tokens that exist.
        vocab: u32,
    },
    /// No bit is set, so nothing is left to sample.
    #[error("output {output}: no token is allowed")]
    NothingAllowed {
        /// The mask's output.
        output: u32,
    },
}

/// Why the masks of a step are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("masks of step {step}: {cause}")]
pub struct MasksError {
    /// The step that they are said to be of.
    pub step: StepId,
    /// What is wrong with them.
    pub cause: String,
}

impl Masks {
    /// Refuses masks that a step of so many outputs, over a vocabulary, cannot have.
    pub fn check(&self, outputs: usize, vocab: u32) -> Result<(), MasksError> {
        Mask::check(&self.rows, outputs, vocab)
            .map_err(|error| MasksError { step: self.step, cause: error.to_string() })
    }
}

impl Mask {
    /// Allows these tokens, all below `vocab`, and no other.
    pub fn of(output: u32, vocab: u32, allowed: impl IntoIterator<Item = Token>) -> Self {
        let mut bits = vec![0; Self::bytes(vocab)];
        allowed.into_iter().for_each(|token| bits[token as usize / 8] |= 1 << (token % 8));
        Self { output, bits }
    }

    /// Bytes of a mask.
    pub fn bytes(vocab: u32) -> usize {
        vocab.div_ceil(8) as usize
    }

    /// Whether a token of the vocabulary may be sampled.
    pub fn allows(&self, token: Token) -> bool {
        self.bits[token as usize / 8] >> (token % 8) & 1 == 1
    }

    /// Refuses outputs that do not exist or do not rise, masks of another length, bits past the
    /// vocabulary, and masks that leave nothing to sample.
    pub fn check(rows: &[Self], outputs: usize, vocab: u32) -> Result<(), MaskError> {
        let mut before = None;
        for Self { output, bits } in rows {
            let output = *output;
            if output as usize >= outputs {
                return Err(MaskError::NoOutput { output, outputs });
            }
            if let Some(before) = before.replace(output).filter(|before| *before >= output) {
                return Err(MaskError::Order { output, before });
            }
            let (len, needed) = (bits.len(), Self::bytes(vocab));
            if len != needed {
                return Err(MaskError::Length { output, len, needed });
            }
            if !vocab.is_multiple_of(8) && bits[len - 1] >> (vocab % 8) != 0 {
                return Err(MaskError::PastVocab { output, vocab });
            }
            if bits.iter().all(|byte| *byte == 0) {
                return Err(MaskError::NothingAllowed { output });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster as pb;

    fn masks(rows: Vec<Mask>) -> Masks {
        Masks { replica: ReplicaId(1), epoch: Epoch(2), step: StepId(3), rows }
    }

    fn refusal(rows: Vec<Mask>, outputs: usize, vocab: u32) -> String {
        masks(rows).check(outputs, vocab).map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn a_mask_allows_its_tokens_on_both_ends_of_the_wire() {
        for vocab in [1, 7, 8, 9, 63, 64, 65, 1000] {
            let is_allowed = |token: Token| token.is_multiple_of(3) || token + 1 == vocab;
            let mask = Mask::of(4, vocab, (0..vocab).filter(|token| is_allowed(*token)));
            assert!((0..vocab).all(|token| mask.allows(token) == is_allowed(token)), "{vocab}");
            let masks = masks(vec![mask]);
            assert_eq!(masks.check(5, vocab), Ok(()));
            assert_eq!(Masks::from(pb::Masks::from(&masks)), masks);
        }
        assert_eq!(Mask::of(0, 17, [0, 9, 16]).bits, [0b1, 0b10, 0b1]);
    }

    #[test]
    fn masks_that_a_step_cannot_have_are_refused_by_name() {
        let mask = |output| Mask::of(output, 20, [3, 19]);
        assert_eq!(refusal(Vec::new(), 0, 20), "");
        assert_eq!(refusal(vec![mask(0), mask(2)], 3, 20), "");
        let outside = refusal(vec![mask(0), mask(3)], 3, 20);
        assert_eq!(outside, "masks of step 3: output 3 is not below 3");
        let twice = refusal(vec![mask(1), mask(1)], 3, 20);
        assert_eq!(twice, "masks of step 3: output 1 comes after output 1");
        assert!(refusal(vec![mask(2), mask(1)], 3, 20).contains("output 1 comes after output 2"));
        let none = refusal(vec![Mask::of(1, 20, [])], 3, 20);
        assert_eq!(none, "masks of step 3: output 1: no token is allowed");
        let short = refusal(vec![mask(0)], 3, 25);
        assert_eq!(short, "masks of step 3: output 0: 3 bytes of bits where 4 are due");
        assert!(refusal(vec![mask(0)], 3, 16).contains("3 bytes of bits where 2 are due"));
        let past = refusal(vec![mask(0)], 3, 19);
        assert_eq!(past, "masks of step 3: output 0: a bit past the vocabulary of 19");
    }

    #[test]
    fn every_bit_decides() {
        let vocab = 21;
        for token in 0..vocab {
            let alone = Mask::of(0, vocab, [token]);
            assert_eq!(refusal(vec![alone.clone()], 1, vocab), "");
            let tokens = (0..vocab).filter(|other| alone.allows(*other));
            assert_eq!(tokens.collect::<Vec<_>>(), [token]);
        }
        for bit in vocab..24 {
            let mut mask = Mask::of(0, vocab, [0]);
            mask.bits[2] |= 1 << (bit - 16);
            assert!(refusal(vec![mask], 1, vocab).contains("past the vocabulary"), "{bit}");
        }
    }
}

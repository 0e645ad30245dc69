//! Rotary position embedding as a model describes it: base, width, and how it is stretched for long
//! contexts. A part of [`crate::spec`]; backends compute frequencies and angles.

use serde::Serialize;

/// Rotary position embedding in half-split order ("rotate half"): element `i` pairs with
/// `i + dims / 2`, at angle `position * theta^(-2i / dims)`. The slicer undoes other orders.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How many leading elements of a head rotate; even, at most `head_dim`.
    pub dims: u32,
    /// How frequencies are stretched for long contexts.
    pub scaling: RopeScaling,
}

/// Kinds of rope scaling, with the numbers of the configuration. What they do to the frequencies
/// `theta^(-2i / dims)` is what `transformers` does in `modeling_rope_utils.py`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum RopeScaling {
    /// Frequencies are not scaled.
    None,
    /// All frequencies are divided by one factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// NTK: another base, which follows from the longest sequence. transformers takes the length
    /// that a sequence has at each moment, so that what it computes depends on how a prompt was
    /// cut, and cached keys keep the rotation of a shorter one. Here the longest sequence that is
    /// served decides, once: a token's result depends on nothing but the tokens before it, and is
    /// that of transformers wherever nothing longer than the original context is served (the
    /// default), and for a sequence of just the longest length. vLLM has one base too, but always
    /// that of `factor` times the original context.
    Dynamic {
        /// How fast the base grows.
        factor: f64,
        /// Positions before scaling.
        original_context: u32,
        /// Positions of the longest sequence, see [`Self::for_sequences_of`].
        longest: u32,
    },
    /// Llama 3.1: frequencies of long waves are divided, those of short ones kept, with a smooth
    /// transition between.
    Llama3 {
        /// Divisor of the frequencies of long waves.
        factor: f64,
        /// Waves longer than `original_context / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Waves shorter than `original_context / high_freq_factor` are short.
        high_freq_factor: f64,
        /// Positions before scaling.
        original_context: u32,
    },
    /// `YaRN`: frequencies that turn seldom are divided, those that turn often kept, with a ramp
    /// between.
    Yarn {
        /// Divisor of the frequencies that turn seldom.
        factor: f64,
        /// Positions before scaling.
        original_context: u32,
        /// Turns within the original context above which a frequency is kept.
        beta_fast: f64,
        /// Turns within the original context below which a frequency is divided.
        beta_slow: f64,
        /// Multiplies cosines and sines. It is worked out when the settings are read and never
        /// again.
        attention_factor: f64,
        /// Whether the bounds of the ramp are rounded outwards to whole dimensions.
        truncate: bool,
    },
}

impl RopeScaling {
    /// Scaling where sequences have up to so many positions.
    #[must_use]
    pub fn for_sequences_of(self, positions: u32) -> Self {
        match self {
            Self::Dynamic { factor, original_context, .. } => {
                Self::Dynamic { factor, original_context, longest: positions }
            }
            other => other,
        }
    }

    /// Positions that sequences may have, where it is more than the model was trained for.
    pub(crate) fn positions_max(self) -> Option<u32> {
        let Self::Dynamic { factor, original_context, .. } = self else { return None };
        Some(stretched(original_context, factor))
    }
}

/// `positions * factor`, at least one and no more than a number can hold.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
pub(crate) fn stretched(positions: u32, factor: f64) -> u32 {
    ((f64::from(positions) * factor) as u32).max(1)
}

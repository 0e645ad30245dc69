//! Decoder layers: a file for each kind of attention and of feed-forward, a few backend operations
//! each.
//!
//! A new kind is a file here and an arm in each `match` below. Knows no architecture.

pub mod glu;
pub mod gqa;
pub mod step;

use crate::backend::BackendError;
use crate::backend::args::NormLinearArgs;
use glu::GluLayer;
use gqa::GqaLayer;
use step::LayerStep;

/// One decoder layer as this rank holds it.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The first half: from the residual stream, over the sequence's past, back into it.
    pub attention: AttentionLayer,
    /// The second half, at each position by itself.
    pub ffn: FfnLayer,
}

/// Kinds of attention.
#[derive(Clone, Debug)]
pub enum AttentionLayer {
    /// Grouped-query attention.
    Gqa(GqaLayer),
}

/// Kinds of feed-forward.
#[derive(Clone, Debug)]
pub enum FfnLayer {
    /// A gated linear unit.
    Glu(GluLayer),
}

impl AttentionLayer {
    /// The first operation of [`Self::forward`], which norms the residual stream.
    pub fn first_args(&self, step: &LayerStep<'_>) -> NormLinearArgs {
        match self {
            Self::Gqa(gqa) => gqa.qkv_args(step),
        }
    }

    /// `x += attention(norm(x))`, summed over ranks.
    pub fn forward(&self, step: &mut LayerStep<'_>) -> Result<(), BackendError> {
        match self {
            Self::Gqa(gqa) => gqa.forward(step),
        }
    }

    /// Fixes what follows from the longest sequence: some kinds of rope scaling.
    pub fn limit_positions(&mut self, positions_max: u32) {
        let rope = match self {
            Self::Gqa(gqa) => &mut gqa.rope,
        };
        rope.scaling = rope.scaling.for_sequences_of(positions_max);
    }
}

impl FfnLayer {
    /// The first operation of [`Self::forward`], which norms the residual stream.
    pub fn first_args(&self, step: &LayerStep<'_>) -> NormLinearArgs {
        match self {
            Self::Glu(glu) => glu.gate_up_args(step),
        }
    }

    /// `x += ffn(norm(x))`, summed over ranks.
    pub fn forward(&self, step: &mut LayerStep<'_>) -> Result<(), BackendError> {
        match self {
            Self::Glu(glu) => glu.forward(step),
        }
    }
}

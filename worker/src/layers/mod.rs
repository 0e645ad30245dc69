//! Decoder layers: a file for each kind of attention and of feed-forward, a few backend operations
//! each.
//!
//! A new kind is a file here and an arm in each `match` below. Knows no architecture.

pub mod glu;
pub mod gqa;
pub mod mla;
pub mod moe;
pub mod step;

use crate::backend::BackendError;
use crate::backend::args::NormLinearArgs;
use glu::GluLayer;
use gqa::GqaLayer;
use mla::MlaLayer;
use moe::MoeLayer;
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
    /// Multi-head latent attention.
    Mla(MlaLayer),
}

/// Kinds of feed-forward.
#[derive(Clone, Debug)]
pub enum FfnLayer {
    /// A gated linear unit.
    Glu(GluLayer),
    /// A mixture of experts.
    Moe(MoeLayer),
}

impl AttentionLayer {
    /// The first operation of [`Self::forward`], which norms the residual stream.
    pub fn first_args(&self, step: &LayerStep<'_>) -> NormLinearArgs {
        match self {
            Self::Gqa(gqa) => gqa.qkv_args(step),
            Self::Mla(mla) => mla.first_args(step),
        }
    }

    /// `x += attention(norm(x))`, summed over ranks.
    pub fn forward(&self, step: &mut LayerStep<'_>) -> Result<(), BackendError> {
        match self {
            Self::Gqa(gqa) => gqa.forward(step),
            Self::Mla(mla) => mla.forward(step),
        }
    }

    /// Fixes what follows from the longest sequence: some kinds of rope scaling.
    pub fn limit_positions(&mut self, positions_max: u32) {
        let rope = match self {
            Self::Gqa(gqa) => &mut gqa.rope,
            Self::Mla(mla) => &mut mla.rope,
        };
        rope.scaling = rope.scaling.for_sequences_of(positions_max);
    }
}

impl FfnLayer {
    /// The first operation of [`Self::forward`], if it is a gemm that norms the residual stream.
    pub fn first_args(&self, step: &LayerStep<'_>) -> Option<NormLinearArgs> {
        match self {
            Self::Glu(glu) => Some(glu.gate_up_args(step)),
            Self::Moe(_) => None,
        }
    }

    /// `x += ffn(norm(x))`, summed over ranks.
    pub fn forward(&self, step: &mut LayerStep<'_>) -> Result<(), BackendError> {
        match self {
            Self::Glu(glu) => glu.forward(step),
            Self::Moe(moe) => moe.forward(step),
        }
    }
}

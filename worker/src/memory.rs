//! All memory of a rank, planned before it is ready: activations by name, KV blocks by number.
//!
//! Pure arithmetic over spec and layout; the backend takes what the plan says, once.

use binfer_shard::spec::Mixer;
use binfer_shard::{ModelSpec, RankLayout, layouts};

use crate::backend::args::{Kind, Tensor};
use crate::backend::{KvLayerPlan, MemoryPlan};
use crate::model::Model;

/// Tensors begin at multiples of so many elements: 256 bytes, which GPUs copy and multiply best.
const ALIGNMENT: usize = 64;

/// Bounds of a step, agreed on in the handshake.
#[derive(Clone, Copy, Debug)]
pub struct StepLimits {
    /// Sequences at once, and so outputs of a step at most.
    pub slots_max: usize,
    /// Input tokens of a step.
    pub tokens_per_step_max: usize,
    /// Positions of a sequence.
    pub context_max: usize,
}

/// The activation arena: every tensor that a step needs, none sharing an element with another.
#[derive(Clone, Copy, Debug)]
pub struct Activations {
    /// The residual stream, `[tokens, hidden]`.
    pub x: Tensor,
    /// QKV of attention or inside of the feed-forward, `[tokens, the wider of both]`.
    pub wide: Tensor,
    /// Output of attention, `[tokens, heads * head_dim]`.
    pub mixed: Tensor,
    /// `[outputs, vocabulary]`.
    pub logits: Tensor,
}

impl Activations {
    /// Lays out the arena of `model` for steps within `limits`.
    pub fn plan(model: &Model, limits: StepLimits) -> Self {
        let widest = |width: fn(&crate::model::Layer) -> usize| {
            model.layers.iter().map(width).max().unwrap_or(0)
        };
        let tokens = limits.tokens_per_step_max;
        let mut end = 0;
        let mut place = |rows, cols, kind| {
            let tensor = Tensor { offset: end, rows, cols, kind };
            end += tensor.len().next_multiple_of(ALIGNMENT);
            tensor
        };
        let wide = widest(|layer| layer.mixer.qkv_cols().max(layer.ffn.inner));
        Self {
            x: place(tokens, model.hidden, Kind::Sum),
            wide: place(tokens, wide, Kind::Inner),
            mixed: place(tokens, widest(|layer| layer.mixer.mixed_cols()), Kind::Inner),
            logits: place(limits.slots_max, model.vocab, Kind::Sum),
        }
    }

    /// Elements of the arena.
    pub fn elements(&self) -> usize {
        [self.x, self.wide, self.mixed, self.logits]
            .iter()
            .map(|tensor| tensor.offset + tensor.len().next_multiple_of(ALIGNMENT))
            .max()
            .unwrap_or(0)
    }
}

/// What the backend takes for steps within `limits` with `blocks` per KV group.
///
/// # Errors
/// When the model cannot be cut for as many ranks as the layout's.
pub fn plan(
    spec: &ModelSpec,
    layout: &RankLayout,
    activations: &Activations,
    limits: StepLimits,
    blocks: &[u32],
) -> Result<MemoryPlan, binfer_shard::Error> {
    let kv = spec
        .layers
        .iter()
        .map(|layer| {
            let Mixer::Gqa(gqa) = layer.mixer;
            KvLayerPlan {
                kv_group: layer.kv_group,
                blocks: blocks[layer.kv_group] as usize,
                kv_heads: layout.kv_heads.len(),
                block_tokens: spec.kv_groups[layer.kv_group].block_tokens as usize,
                head_dim: gqa.head_dim as usize,
            }
        })
        .collect();
    let tables = spec.kv_groups.iter();
    let vocab_rows = layouts(spec, layout.world)?.iter().map(|of| of.vocab.len()).collect();
    Ok(MemoryPlan {
        arena: activations.elements(),
        tokens_max: limits.tokens_per_step_max,
        hidden: activations.x.cols,
        wide: activations.wide.cols,
        blocks_per_slot: tables
            .map(|group| limits.context_max.div_ceil(group.block_tokens as usize))
            .collect(),
        slots_max: limits.slots_max,
        outputs_max: limits.slots_max,
        vocab: spec.vocab as usize,
        vocab_rows,
        kv,
        stamps_max: 0,
    })
}

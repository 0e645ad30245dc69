//! All memory of a rank, laid out before it is ready: activations by name, KV blocks by number.
//!
//! The sizes are those of `binfer_shard::fit`, which `binfer plan` prints; here they become what a
//! backend allocates, once.

use binfer_shard::fit::{ActivationArena, ArenaTensor, kv_shapes};
use binfer_shard::{ModelSpec, RankLayout, layouts};

use crate::backend::args::{Tensor, TensorKind};
use crate::backend::{KvLayerLayout, MemoryLayout};

/// Bounds of a step, agreed on in the handshake.
#[derive(Clone, Copy, Debug)]
pub struct StepLimits {
    /// Sequences at once, and so outputs of a step at most.
    pub slots_max: u32,
    /// Input tokens of a step.
    pub tokens_per_step_max: u32,
    /// Positions of a sequence.
    pub context_max: u32,
}

/// The activation arena: every tensor that a step needs, none sharing an element with another.
#[derive(Clone, Copy, Debug)]
pub struct Activations {
    /// The residual stream, `[tokens, hidden]`.
    pub x: Tensor,
    /// QKV of attention or the columns between the gemms of the feed-forward,
    /// `[tokens, the wider of both]`.
    pub intermediate: Tensor,
    /// Output of attention, `[tokens, heads * head_dim]`.
    pub attn_out: Tensor,
    /// What the second product of latent attention's queries norms and multiplies,
    /// `[tokens, q_rank]`.
    pub query_a: Tensor,
    /// Queries of latent attention, `[tokens, heads * query_dim]`.
    pub queries: Tensor,
    /// What latent attention caches, before norm and rotation, `[tokens, latent + rope]`.
    pub latent: Tensor,
    /// Between the gemms of experts, `[tokens * top_k, inner]`.
    pub expert_inner: Tensor,
    /// What experts make of each token, `[tokens * top_k, hidden]`.
    pub expert_out: Tensor,
    /// `[outputs, vocabulary]`.
    pub logits: Tensor,
    /// Elements of the arena.
    pub elements: usize,
}

impl Activations {
    /// Lays out a rank's arena for steps within `limits`.
    pub fn new(spec: &ModelSpec, layout: &RankLayout, limits: StepLimits) -> Self {
        let StepLimits { tokens_per_step_max, slots_max, .. } = limits;
        let arena = ActivationArena::new(spec, layout, tokens_per_step_max, slots_max);
        Self {
            x: tensor(arena.residual, TensorKind::Sum),
            intermediate: tensor(arena.intermediate, TensorKind::Inner),
            attn_out: tensor(arena.attn_out, TensorKind::Inner),
            query_a: tensor(arena.query_a, TensorKind::Sum),
            queries: tensor(arena.queries, TensorKind::Inner),
            latent: tensor(arena.latent, TensorKind::Inner),
            expert_inner: tensor(arena.expert_inner, TensorKind::Inner),
            expert_out: tensor(arena.expert_out, TensorKind::Inner),
            logits: tensor(arena.logits, TensorKind::Sum),
            elements: to_usize(arena.elements()),
        }
    }
}

fn tensor(place: ArenaTensor, kind: TensorKind) -> Tensor {
    Tensor {
        offset: to_usize(place.offset),
        rows: place.rows as usize,
        cols: to_usize(place.cols),
        kind,
    }
}

/// A size as the host counts; one that does not fit cannot be allocated either.
fn to_usize(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// Lays out the memory that a device takes for steps within `limits`, with `blocks` per KV group.
///
/// # Errors
/// When the model cannot be cut for as many ranks as the layout's.
pub fn lay_out(
    spec: &ModelSpec,
    layout: &RankLayout,
    limits: StepLimits,
    blocks: &[u32],
) -> Result<MemoryLayout, binfer_shard::Error> {
    let activations = Activations::new(spec, layout, limits);
    let layers = spec.layers.iter().zip(kv_shapes(spec, layout));
    let kv = layers.map(|(layer, shape)| KvLayerLayout {
        kv_group: layer.kv_group,
        blocks: blocks[layer.kv_group] as usize,
        block_tokens: spec.kv_groups[layer.kv_group].block_tokens as usize,
        shape,
    });
    let mixtures = spec.layers.iter().filter_map(|layer| layer.ffn.moe());
    let context_max = u64::from(limits.context_max);
    let blocks_per_slot = spec.kv_groups.iter().map(|kv_group| kv_group.blocks_of(context_max));
    Ok(MemoryLayout {
        arena: activations.elements,
        tokens_max: limits.tokens_per_step_max as usize,
        hidden: activations.x.cols,
        normed_max: activations.x.cols.max(activations.query_a.cols),
        intermediate: activations.intermediate.cols,
        blocks_per_slot: blocks_per_slot.map(to_usize).collect(),
        slots_max: limits.slots_max as usize,
        outputs_max: limits.slots_max as usize,
        vocab: spec.vocab as usize,
        vocab_rows: layouts(spec, layout.world)?.iter().map(|of| of.vocab.len()).collect(),
        kv: kv.collect(),
        experts_max: mixtures.clone().map(|moe| moe.experts as usize).max().unwrap_or(0),
        experts_per_token_max: mixtures.map(|moe| moe.routing.top_k as usize).max().unwrap_or(0),
        stamps_max: 0,
    })
}

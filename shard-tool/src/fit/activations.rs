//! Pure: the activation arena, laid out for the largest step.

use crate::layout::LayerLayout;
use crate::spec::{LayerSpec, Mixer};
use crate::{ModelSpec, RankLayout};

/// Tensors of the arena begin at multiples of so many elements: 256 bytes of f32, which GPUs copy
/// and multiply best.
const ALIGNMENT: u64 = 64;

/// Every tensor that a step needs, none sharing an element with another. Elements have four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActivationArena {
    /// The residual stream, `[tokens, hidden]`.
    pub residual: ArenaTensor,
    /// QKV of attention or the columns between the gemms of the feed-forward,
    /// `[tokens, the wider of both]`.
    pub intermediate: ArenaTensor,
    /// Attention's output, `[tokens, heads * head_dim]`.
    pub attn_out: ArenaTensor,
    /// What the second product of latent attention's queries norms and multiplies,
    /// `[tokens, q_rank]`.
    pub query_a: ArenaTensor,
    /// Queries of latent attention, `[tokens, heads * query_dim]`.
    pub queries: ArenaTensor,
    /// What latent attention caches, before norm and rotation, `[tokens, latent + rope]`.
    pub latent: ArenaTensor,
    /// Between the gemms of experts, `[tokens * top_k, inner]`.
    pub expert_inner: ArenaTensor,
    /// What experts make of each token, `[tokens * top_k, hidden]`.
    pub expert_out: ArenaTensor,
    /// `[outputs, vocabulary]`.
    pub logits: ArenaTensor,
}

/// A matrix in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaTensor {
    /// Its first element.
    pub offset: u64,
    /// Rows.
    pub rows: u32,
    /// Columns.
    pub cols: u64,
}

impl ArenaTensor {
    /// Where the next tensor may begin.
    fn end(self) -> u64 {
        let elements = self.cols.saturating_mul(self.rows.into());
        let aligned = elements.checked_next_multiple_of(ALIGNMENT).unwrap_or(u64::MAX);
        self.offset.saturating_add(aligned)
    }
}

impl ActivationArena {
    /// Lays out a rank's arena for steps of so many input tokens that end in so many outputs.
    #[must_use]
    pub fn new(spec: &ModelSpec, layout: &RankLayout, tokens_max: u32, outputs_max: u32) -> Self {
        let widest = |cols: fn(&LayerSpec, &LayerLayout) -> u64| {
            let layers = spec.layers.iter().zip(layout.layers());
            layers.map(|(layer, held)| cols(layer, held)).max().unwrap_or(0)
        };
        let mut end = 0;
        let mut place = |rows, cols| {
            let tensor = ArenaTensor { offset: end, rows, cols };
            end = tensor.end();
            tensor
        };
        let experts = spec.layers.iter().filter_map(|layer| layer.ffn.moe());
        let (mut slots, mut expert_cols) = (0, 0);
        for moe in experts {
            slots = slots.max(tokens_max.saturating_mul(moe.routing.top_k));
            expert_cols = expert_cols.max(moe.inner.into());
        }
        let hidden_if_experts = if slots > 0 { spec.hidden.into() } else { 0 };
        Self {
            residual: place(tokens_max, spec.hidden.into()),
            intermediate: place(tokens_max, widest(intermediate_cols)),
            attn_out: place(tokens_max, widest(attn_out_cols)),
            query_a: place(tokens_max, widest(query_a_cols)),
            queries: place(tokens_max, widest(query_cols)),
            latent: place(tokens_max, widest(latent_cols)),
            expert_inner: place(slots, expert_cols),
            expert_out: place(slots, hidden_if_experts),
            logits: place(outputs_max, spec.vocab.into()),
        }
    }

    /// Elements of the arena.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.logits.end()
    }
}

/// Columns that a layer needs between its gemms on a rank.
fn intermediate_cols(layer: &LayerSpec, held: &LayerLayout) -> u64 {
    let attention = match layer.mixer {
        Mixer::Gqa(gqa) => {
            let heads = held.heads.q_heads.len() + 2 * held.heads.kv_heads.len();
            heads as u64 * u64::from(gqa.head_dim)
        }
        Mixer::Mla(_) => 0,
    };
    attention.max(held.ffn.columns.len() as u64)
}

/// Columns of a layer's attention output on a rank.
fn attn_out_cols(layer: &LayerSpec, held: &LayerLayout) -> u64 {
    let head_dim = match layer.mixer {
        Mixer::Gqa(gqa) => gqa.head_dim,
        Mixer::Mla(mla) => mla.dims.value,
    };
    held.heads.q_heads.len() as u64 * u64::from(head_dim)
}

/// Columns of a layer's low-rank queries.
fn query_a_cols(layer: &LayerSpec, _: &LayerLayout) -> u64 {
    match layer.mixer {
        Mixer::Gqa(_) => 0,
        Mixer::Mla(mla) => mla.q_rank.unwrap_or(0).into(),
    }
}

/// Columns of a layer's queries on a rank, where they lie apart from keys and values.
fn query_cols(layer: &LayerSpec, held: &LayerLayout) -> u64 {
    match layer.mixer {
        Mixer::Gqa(_) => 0,
        Mixer::Mla(mla) => held.heads.q_heads.len() as u64 * u64::from(mla.query_dim()),
    }
}

/// Columns of what a layer caches for all heads together.
fn latent_cols(layer: &LayerSpec, _: &LayerLayout) -> u64 {
    match layer.mixer {
        Mixer::Gqa(_) => 0,
        Mixer::Mla(mla) => mla.cached_dim().into(),
    }
}

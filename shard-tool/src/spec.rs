//! What a model is made of: the one description that loading, cutting, planning and running read.
//!
//! A spec is data. It says nothing of ranks ([`crate::layout`]), of files ([`crate::Checkpoint`])
//! or of devices. An architecture is a table that fills it in (`families`); nobody downstream asks
//! which architecture it was. Manifests of shards carry a spec as JSON, so the serialised names
//! stay as they are while `shards::LAYOUT_VERSION` does.

use serde::Serialize;

pub use crate::ffn_spec::{
    ActivationFn, ExpertGroups, Ffn, GroupScore, Moe, RouterScores, Routing,
};
pub use crate::rope::{Rope, RopeScaling};
pub use crate::tensor_spec::{PartSpec, RowOrder, TensorCut, TensorSpec};

/// A whole model. Sizes are in elements.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelSpec {
    /// For people only ("llama"): code that branches on it is a bug.
    pub architecture: String,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Rows of the embedding: token ids are below it.
    pub vocab: u32,
    /// Positions that the model was trained for.
    pub context_max: u32,
    /// Epsilon of every RMS norm.
    pub norm_eps: f32,
    /// The head's weight is the embedding's: there is no tensor `head`.
    pub tied_head: bool,
    /// Decoder layers, first to last.
    pub layers: Vec<LayerSpec>,
    /// Layers grouped by the kind of KV cache they need; each group has its own block table.
    pub kv_groups: Vec<KvGroupSpec>,
    /// Every tensor, in load order: `embed`, per layer `layers.N.attn.norm`, `.attn.qkv`,
    /// `.attn.out`, `.ffn.norm`, `.ffn.gate_up`, `.ffn.down`, then `final.norm` and, unless
    /// [`Self::tied_head`], `head`. A model that has them says so by their presence, each after
    /// what it belongs to: `.attn.qkv.bias`, `.attn.q_norm` and `.attn.k_norm` (one row of
    /// `head_dim`, for every head), `.attn.sinks`, `.attn.out.bias`, `.ffn.gate_up.bias`,
    /// `.ffn.down.bias`. [`Mla`] and [`Moe`] name theirs.
    pub tensors: Vec<TensorSpec>,
}

impl ModelSpec {
    /// The tensor of that run-time name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorSpec> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Run-time name of the tensor that makes logits: `embed` when tied, else `head`.
    #[must_use]
    pub fn head_tensor(&self) -> &'static str {
        if self.tied_head { "embed" } else { "head" }
    }

    /// Weights, as people count them: elements of all tensors.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let parts = self.tensors.iter().flat_map(|tensor| &tensor.parts);
        parts.map(|part| u64::from(part.rows) * u64::from(part.cols)).sum()
    }

    /// Bytes of all weights, uncut.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.tensors.iter().map(TensorSpec::bytes).sum()
    }

    /// Positions that sequences may be allowed: [`Self::context_max`], or more where rope scaling
    /// follows from what is allowed.
    #[must_use]
    pub fn context_limit(&self) -> u32 {
        let scalings = self.layers.iter().map(|layer| layer.mixer.rope().scaling);
        let stretched = scalings.filter_map(RopeScaling::positions_max).min();
        stretched.map_or(self.context_max, |limit| limit.max(self.context_max))
    }
}

/// One decoder layer: norm, mixer, residual; norm, feed-forward, residual.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LayerSpec {
    /// What carries information from one position to another.
    pub mixer: Mixer,
    /// What is computed at each position by itself.
    pub ffn: Ffn,
    /// Index into [`ModelSpec::kv_groups`].
    pub kv_group: usize,
}

/// A kind of mixer has at most five settings; a sixth means a new kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum Mixer {
    /// Grouped-query attention; plain multi-head attention has `kv_heads == heads`.
    Gqa(Gqa),
    /// Multi-head latent attention.
    Mla(Mla),
}

impl Mixer {
    /// The rotation of queries and keys.
    #[must_use]
    pub fn rope(&self) -> Rope {
        match self {
            Self::Gqa(gqa) => gqa.rope,
            Self::Mla(mla) => mla.rope,
        }
    }
}

/// Grouped-query attention. Its window, if any, is that of its KV group ([`KvKind::Window`]).
/// Scores are scaled by `1 / sqrt(head_dim)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gqa {
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; divides `heads`. Query head `h` reads KV head `h / (heads / kv_heads)`.
    pub kv_heads: u32,
    /// Width of a head; `heads * head_dim` need not be the hidden size.
    pub head_dim: u32,
    /// Rotation of queries and keys.
    pub rope: Rope,
}

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): the cache keeps one vector a
/// position, out of which every head computes its key and its value.
///
/// Its tensors: `attn.norm`, `attn.q` (or, of low rank, `attn.q_a`, `attn.q_a_norm`, `attn.q_b`),
/// `attn.kv_a`, `attn.kv_a_norm`, `attn.k_b`, `attn.v_b`, `attn.out`. `q`, `q_b` and `kv_a` have
/// rows in the order that rotates halves. `k_b` is `[heads * latent, nope]` and multiplies queries,
/// so that they meet the latent vector itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mla {
    /// Query heads, each with a key and a value of its own.
    pub heads: u32,
    /// Widths of the parts of a head.
    pub dims: MlaDims,
    /// Rank of the queries' product; `None` where it is one product, `attn.q`.
    pub q_rank: Option<u32>,
    /// Rotation of the rotated part of queries and of the one key that all heads share.
    pub rope: Rope,
    /// What scores are multiplied by.
    pub scale: f32,
}

/// Widths in latent attention. That of the rotated part is [`Rope::dims`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MlaDims {
    /// The part of a head's query and key that is not rotated.
    pub nope: u32,
    /// A head's value.
    pub value: u32,
    /// The latent vector.
    pub latent: u32,
}

impl Mla {
    /// Elements of a head's query.
    #[must_use]
    pub fn query_dim(&self) -> u32 {
        self.dims.nope + self.rope.dims
    }

    /// Elements that the cache keeps of a position: the normed latent vector and the rotated key.
    #[must_use]
    pub fn cached_dim(&self) -> u32 {
        self.dims.latent + self.rope.dims
    }
}

/// Layers that share a block table: they keep the same positions, in caches of the same shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct KvGroupSpec {
    /// Which positions are kept.
    pub kind: KvKind,
    /// What a layer keeps of a position, over all ranks.
    #[serde(flatten)]
    pub shape: KvShape,
    /// Positions in a block.
    pub block_tokens: u32,
    /// Layers in the group.
    pub layers: u32,
}

impl KvGroupSpec {
    /// Blocks that hold so many positions.
    #[must_use]
    pub fn blocks_of(&self, positions: u64) -> u64 {
        positions.div_ceil(self.block_tokens.max(1).into())
    }

    /// Positions that so many blocks hold.
    #[must_use]
    pub fn positions_of(&self, blocks: u32) -> u64 {
        u64::from(self.block_tokens) * u64::from(blocks)
    }
}

/// Which positions a KV cache keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum KvKind {
    /// Every position.
    Full,
    /// The last so many positions, the present one counted.
    Window(u32),
}

impl KvKind {
    /// Last positions that attention sees; `None` where it sees all.
    #[must_use]
    pub fn window(self) -> Option<u32> {
        match self {
            Self::Full => None,
            Self::Window(positions) => Some(positions),
        }
    }
}

/// What a KV cache keeps of one position in one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum KvShape {
    /// A key and a value for each KV head.
    Heads {
        /// KV heads.
        kv_heads: u32,
        /// Width of a head, the same for K and for V.
        head_dim: u32,
    },
    /// One latent vector out of which keys and values of all heads are computed; every rank keeps
    /// all of it.
    Latent {
        /// Elements of the vector.
        width: u32,
    },
}

impl KvShape {
    /// Elements of one position.
    #[must_use]
    pub fn elements(self) -> u64 {
        match self {
            Self::Heads { kv_heads, head_dim } => 2 * u64::from(kv_heads) * u64::from(head_dim),
            Self::Latent { width } => width.into(),
        }
    }
}

/// Positions in a KV block unless a family says otherwise: one TMA copy then brings a whole tile
/// of a head, and for plain loads 16 and 64 were measured alike.
pub const BLOCK_TOKENS: u32 = 64;

//! What a model is made of: the one description that loading, cutting, planning and running read.
//!
//! A spec is data. It says nothing of ranks ([`crate::layout`]), of files ([`crate::Checkpoint`]) or
//! of devices. An architecture is a table that fills it in (`families`); nobody downstream asks
//! which architecture it was.

use serde::Serialize;

use crate::DType;
pub use crate::rope::{Rope, RopeScaling};

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
    /// `head_dim`, for every head), `.attn.out.bias`, `.ffn.gate_up.bias`, `.ffn.down.bias`.
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
        let scalings = self.layers.iter().map(|layer| {
            let Mixer::Gqa(gqa) = layer.mixer;
            gqa.rope.scaling
        });
        let stretched = scalings.filter_map(RopeScaling::positions_max).min();
        stretched.map_or(self.context_max, |limit| limit.max(self.context_max))
    }
}

/// One decoder layer: norm, mixer, residual; norm, ffn, residual.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LayerSpec {
    /// How positions are mixed.
    pub mixer: Mixer,
    /// What happens at each position.
    pub ffn: Ffn,
    /// Index into [`ModelSpec::kv_groups`].
    pub kv_group: usize,
}

/// Kinds of mixer. Each has at most five knobs; a sixth means a new kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum Mixer {
    /// Grouped-query attention; plain multi-head attention has `kv_heads == heads`.
    Gqa(Gqa),
}

/// Grouped-query attention. Its window, if any, is that of its KV group ([`KvKind::Window`]): said
/// once. Scores are scaled by `1 / sqrt(head_dim)`.
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

/// Kinds of feed-forward.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum Ffn {
    /// `down(act(gate(x)) * up(x))`.
    Glu {
        /// Width between, in elements.
        inner: u32,
        /// Applied to the gate.
        act: Act,
    },
}

/// Activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Act {
    /// `x * sigmoid(x)`.
    Silu,
}

/// Layers that share a block table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct KvGroupSpec {
    /// What is kept of the past.
    pub kind: KvKind,
    /// KV heads of one layer, over all ranks.
    pub kv_heads: u32,
    /// Width of a head, for K and for V.
    pub head_dim: u32,
    /// Positions in a block.
    pub block_tokens: u32,
    /// Layers in the group.
    pub layers: u32,
}

/// Kinds of KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum KvKind {
    /// Every position.
    Full,
    /// The last so many positions, the present one counted.
    Window(u32),
    /// One latent vector a position, of that width, whole on every rank.
    Latent(u32),
}

/// Positions in a KV block unless a family says otherwise: one TMA copy then brings a whole tile
/// of a head, and for plain loads 16 and 64 were measured alike.
pub const BLOCK_TOKENS: u32 = 64;

/// A tensor of the running model, fused out of one or more tensors of the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TensorSpec {
    /// Run-time name: `layers.3.attn.qkv`.
    pub name: String,
    /// Checkpoint tensors whose rows follow each other; types may differ between parts.
    pub parts: Vec<Part>,
    /// How ranks divide it.
    pub cut: Cut,
}

impl TensorSpec {
    /// Bytes, uncut.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(Part::bytes).sum()
    }
}

/// One checkpoint tensor, seen as a matrix `[rows, cols]` that maps `cols` inputs to `rows`
/// outputs, row-major. A norm is one row; a bias one column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Name in the checkpoint.
    pub source: String,
    /// Type in the checkpoint, kept in memory.
    pub dtype: DType,
    /// Outputs.
    pub rows: u32,
    /// Inputs; whole blocks of `dtype`.
    pub cols: u32,
    /// In which order the checkpoint has the rows.
    pub row_order: RowOrder,
}

impl Part {
    /// Bytes of one row.
    #[must_use]
    pub fn row_bytes(&self) -> u64 {
        self.dtype.row_bytes(self.cols)
    }

    /// Bytes of all rows.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.row_bytes() * u64::from(self.rows)
    }
}

/// Order of a part's rows in the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum RowOrder {
    /// As the engine wants them.
    AsIs,
    /// llama.cpp's converter interleaves the halves of each q and k head (its rope pairs
    /// neighbours): row `2i + half` of a head there is row `half * head_dim / 2 + i` here.
    LlamaCppInterleaved {
        /// Rows of one head; even.
        head_dim: u32,
    },
}

impl RowOrder {
    /// The checkpoint's row that holds the engine's row `row`.
    #[must_use]
    pub fn source_row(self, row: u32) -> u32 {
        match self {
            Self::AsIs => row,
            Self::LlamaCppInterleaved { head_dim } => {
                let (first, within) = (row - row % head_dim, row % head_dim);
                let half_rows = head_dim / 2;
                first + 2 * (within % half_rows) + within / half_rows
            }
        }
    }
}

/// How ranks divide a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Cut {
    /// Every rank has all of it.
    Replicated,
    /// Three parts q, k, v: rows of the rank's query heads, then of its KV heads, twice.
    QkvHeads,
    /// Columns that the rank's query heads feed.
    HeadColumns,
    /// Of each part (gate, up) the rows that make the rank's FFN columns.
    FfnRows,
    /// Columns that the rank's FFN rows feed.
    FfnColumns,
    /// Rows of the rank's share of the vocabulary.
    VocabRows,
}

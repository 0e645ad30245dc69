//! Arguments of the backend's operations: one struct each, with `check()` for its contract.
//!
//! A [`Tensor`] is a handle into the backend's activation arena. Shapes are `[rows, cols]`,
//! row-major; `rows` is the number of tokens in the batch unless said otherwise.

use binfer_shard::spec::{Act, Rope};

use super::Weight;

/// A matrix in the activation arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// First element in the arena.
    pub offset: usize,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// How precise its elements are.
    pub kind: Kind,
}

/// How precise a tensor's elements are. Every element has four bytes of the arena; a device that
/// keeps inner tensors narrower packs them at the beginning of their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sums: the residual stream and logits, in single precision everywhere.
    Sum,
    /// What is multiplied by weights or mixed by attention, in the device's own type.
    Inner,
}

impl Tensor {
    /// Elements.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same place with fewer rows.
    #[must_use]
    pub fn with_rows(self, rows: usize) -> Self {
        debug_assert!(rows <= self.rows, "a tensor only shrinks");
        Self { rows, ..self }
    }

    /// The same place, packed with fewer columns.
    #[must_use]
    pub fn with_cols(self, cols: usize) -> Self {
        debug_assert!(cols <= self.cols, "a tensor only shrinks");
        Self { cols, ..self }
    }

    /// Whether two tensors share an element.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.offset < other.offset + other.len() && other.offset < self.offset + self.len()
    }
}

/// `out[i] = table[token i]`; tokens outside this rank's `first..first + table rows` add zero, and
/// the ranks' outs are summed.
#[derive(Clone, Copy, Debug)]
pub struct EmbedArgs {
    /// `[vocabulary rows of this rank, hidden]`.
    pub table: Weight,
    /// Token id of the table's first row.
    pub first_token: usize,
    /// `[tokens, hidden]`.
    pub out: Tensor,
}

/// `out = glu(norm(x) * weight^T + bias)`.
#[derive(Clone, Copy, Debug)]
pub struct NormLinearArgs {
    /// `[tokens, hidden]`.
    pub x: Tensor,
    /// `[hidden]`, RMSNorm's scale.
    pub norm: Weight,
    /// RMSNorm's epsilon.
    pub eps: f32,
    /// `[columns of out, hidden]`, or twice as many rows, gate then up, where `glu` is set.
    pub weight: Weight,
    /// `[rows of weight]`, added to the product.
    pub bias: Option<Weight>,
    /// `act(gate) * up`.
    pub glu: Option<Act>,
    /// `[tokens, weight rows or half of them]`.
    pub out: Tensor,
}

/// Attention of the batch's tokens over their sequences. Writes K and V of the batch first.
#[derive(Clone, Copy, Debug)]
pub struct AttendArgs {
    /// `[tokens, (heads + 2 kv_heads) * head_dim]`: Q, K, V as this rank holds them. Q and K are
    /// normed, where asked, and rotated on the way.
    pub qkv: Tensor,
    /// Query heads of this rank; `heads % kv_heads == 0`.
    pub heads: usize,
    /// KV heads of this rank.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// `[head_dim]`: RMSNorm's scale for each query head, before the rotation.
    pub q_norm: Option<Weight>,
    /// `[head_dim]`, the same for each key head.
    pub k_norm: Option<Weight>,
    /// Epsilon of both.
    pub norm_eps: f32,
    /// Rotary embedding, halves rotated.
    pub rope: Rope,
    /// Index of the layer: its cache.
    pub layer: usize,
    /// Index of the layer's KV group: its block tables.
    pub kv_group: usize,
    /// Attend only to the last so many positions, the token itself included.
    pub window: Option<u32>,
    /// `[heads]`: of each query head a score that has no value: it takes its share of the weight.
    pub sinks: Option<Weight>,
    /// `[tokens, heads * head_dim]`.
    pub out: Tensor,
}

/// `out = residual + (sum over ranks (x * weight^T) + bias)`.
#[derive(Clone, Copy, Debug)]
pub struct LinearOutArgs {
    /// `[tokens, columns of this rank]`.
    pub x: Tensor,
    /// `[hidden, columns of this rank]`.
    pub weight: Weight,
    /// `[hidden]`, the same on all ranks: added once, after the sum.
    pub bias: Option<Weight>,
    /// `[tokens, hidden]`; may be `out` itself.
    pub residual: Tensor,
    /// `[tokens, hidden]`.
    pub out: Tensor,
    /// The operation that follows, if it norms `out`. A hint: a device may choose for both at once,
    /// and do a part of that norm here.
    pub next: Option<NormLinearArgs>,
}

/// `logits[o] = norm(x[output o]) * weight^T` for the batch's outputs, all vocabulary on all ranks.
#[derive(Clone, Copy, Debug)]
pub struct HeadArgs {
    /// `[tokens, hidden]`.
    pub x: Tensor,
    /// `[hidden]`, RMSNorm's scale.
    pub norm: Weight,
    /// RMSNorm's epsilon.
    pub eps: f32,
    /// `[vocabulary rows of this rank, hidden]`.
    pub weight: Weight,
    /// Token id of the weight's first row.
    pub first_token: usize,
    /// `[outputs, vocabulary]`. A backend may leave rows as they were that `sample` has no use for: of
    /// outputs without logprobs, penalties, biases, masks, and top-k, top-p or min-p.
    pub logits: Tensor,
}

/// Draws a token per output from `logits`, with the sampling that the batch names.
#[derive(Clone, Copy, Debug)]
pub struct SampleArgs {
    /// `[outputs, vocabulary]`.
    pub logits: Tensor,
}

//! Arguments of the backend's operations, one struct each. Their contracts are in `check.rs`.
//!
//! A [`Tensor`] is a handle into the backend's activation arena. Shapes are `[rows, cols]`,
//! row-major; `rows` is the number of tokens in the batch unless said otherwise.

use binfer_shard::spec::{ActivationFn, Rope};

/// A weight that the device holds; made by [`RankDevice::load`](super::RankDevice::load).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight(pub u32);

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
    pub kind: TensorKind,
}

/// How precise a tensor's elements are. Every element has four bytes of the arena. A device that
/// keeps inner tensors narrower packs them at the beginning of their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorKind {
    /// Single precision on every device: the residual stream, and logits.
    Sum,
    /// The device's own type: inputs of gemms and of attention.
    Inner,
}

impl Tensor {
    /// Elements.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Says whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tensor at the same place with fewer rows.
    #[must_use]
    pub fn with_rows(self, rows: usize) -> Self {
        debug_assert!(rows <= self.rows, "a tensor only shrinks");
        Self { rows, ..self }
    }

    /// The tensor at the same place, packed with fewer columns.
    #[must_use]
    pub fn with_cols(self, cols: usize) -> Self {
        debug_assert!(cols <= self.cols, "a tensor only shrinks");
        Self { cols, ..self }
    }

    /// Says whether two tensors share an element.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.offset < other.offset + other.len() && other.offset < self.offset + self.len()
    }
}

/// `out[i] = table[token i]`. Tokens outside of this rank's rows add zero, and the outs of all
/// ranks are summed.
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
    /// `[rows of weight]`, added to the gemm's result.
    pub bias: Option<Weight>,
    /// Where set, the result is `act(gate) * up`.
    pub glu: Option<ActivationFn>,
    /// `[tokens, weight rows or half of them]`.
    pub out: Tensor,
}

/// Attention of the batch's tokens over their sequences, whose K and V of the batch are written
/// first.
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
    /// `[head_dim]`: RMSNorm's scale for each key head, before the rotation.
    pub k_norm: Option<Weight>,
    /// Epsilon of both norms.
    pub norm_eps: f32,
    /// Rotary embedding, halves rotated.
    pub rope: Rope,
    /// Index of the layer: its cache.
    pub layer: usize,
    /// Index of the layer's KV group: its block tables.
    pub kv_group: usize,
    /// Number of last positions that a token attends to, its own included; all where absent.
    pub window: Option<u32>,
    /// `[heads]`: a score without a value for each query head, which takes its share of the
    /// softmax.
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
    /// The operation that follows, if it norms `out`. It is a hint: a device may choose for both at
    /// once, and do a part of that norm here.
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
    /// `[outputs, vocabulary]`. A backend may leave rows unwritten for which `sample` has no use:
    /// those of outputs without logprobs, penalties, biases, masks, top-k, top-p and min-p.
    pub logits: Tensor,
}

/// Samples a token per output from `logits`, as the batch says for each output.
#[derive(Clone, Copy, Debug)]
pub struct SampleArgs {
    /// `[outputs, vocabulary]`.
    pub logits: Tensor,
}

//! Arguments of the backend's operations, one struct each. Their contracts are in `check.rs`.
//!
//! A [`Tensor`] is a handle into the backend's activation arena. Shapes are `[rows, cols]`,
//! row-major; `rows` is the number of tokens in the batch unless said otherwise.

use binfer_shard::spec::{ActivationFn, Rope, Routing};

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

/// Latent attention: `out = v_b * attention(k_b * q, cache)`, head by head. The cache keeps
/// `norm(latent)` and the rotated key.
#[derive(Clone, Copy, Debug)]
pub struct AttendLatentArgs {
    /// `[tokens, heads * (nope + rope.dims)]`, not rotated: of each head first what is never.
    /// Afterwards some may be rotated where they are.
    pub queries: Tensor,
    /// `[tokens, latent_dim + rope.dims]`: the latent vector before its norm, then the key that all
    /// heads share before its rotation.
    pub latent: Tensor,
    /// `[latent_dim]`, RMSNorm's scale.
    pub latent_norm: Weight,
    /// Epsilon of that norm.
    pub norm_eps: f32,
    /// `[heads * latent_dim, nope]`: takes a head's query to where latent vectors are.
    pub k_b: Weight,
    /// `[heads * value_dim, latent_dim]`: takes a head's mean of latent vectors to its output.
    pub v_b: Weight,
    /// Query heads of this rank.
    pub heads: usize,
    /// Elements of a head's query that are not rotated.
    pub nope: usize,
    /// Elements of the latent vector.
    pub latent_dim: usize,
    /// Elements of a head's output.
    pub value_dim: usize,
    /// Rotary embedding of the last `rope.dims` elements, halves rotated.
    pub rope: Rope,
    /// What scores are multiplied by.
    pub scale: f32,
    /// Index of the layer: its cache.
    pub layer: usize,
    /// Index of the layer's KV group: its block tables.
    pub kv_group: usize,
    /// `[tokens, heads * value_dim]`.
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

/// `out = x + sum over ranks (experts(norm(x)) + shared(norm(x)))`, a mixture of experts.
#[derive(Clone, Copy, Debug)]
pub struct MoeArgs {
    /// `[tokens, hidden]`.
    pub x: Tensor,
    /// `[hidden]`, RMSNorm's scale.
    pub norm: Weight,
    /// RMSNorm's epsilon.
    pub eps: f32,
    /// What chooses experts, the same on all ranks.
    pub router: RouterArgs,
    /// The experts of this rank.
    pub experts: ExpertsArgs,
    /// This rank's columns of the expert that sees every token.
    pub shared: Option<SharedExpertArgs>,
    /// `[tokens, hidden]`; may be `x` itself.
    pub out: Tensor,
    /// The operation that follows, if it norms `out`: a hint, as in [`LinearOutArgs::next`].
    pub next: Option<NormLinearArgs>,
}

/// What chooses a token's experts.
#[derive(Clone, Copy, Debug)]
pub struct RouterArgs {
    /// `[experts of all ranks, hidden]`.
    pub weight: Weight,
    /// `[experts of all ranks]`, added to logits.
    pub bias: Option<Weight>,
    /// `[experts of all ranks]`, added to scores for the choice alone.
    pub correction: Option<Weight>,
    /// Experts of all ranks.
    pub experts: usize,
    /// How logits become experts and weights.
    pub routing: Routing,
}

/// Experts that a rank holds, which are consecutive.
#[derive(Clone, Copy, Debug)]
pub struct ExpertsArgs {
    /// Number of the first one among those of all ranks.
    pub first: usize,
    /// How many there are on this rank.
    pub count: usize,
    /// Outputs of an expert's gate and of its up.
    pub inner: usize,
    /// The activation function.
    pub act: ActivationFn,
    /// `[count * 2 inner, hidden]`: of each expert the rows of gate, then those of up.
    pub gate_up: Weight,
    /// `[count * 2 inner]`.
    pub gate_up_bias: Option<Weight>,
    /// `[count * hidden, inner]`.
    pub down: Weight,
    /// `[count * hidden]`.
    pub down_bias: Option<Weight>,
    /// `[tokens * top_k, inner]`: room between an expert's gemms, a row for each choice of a token.
    pub inner_rows: Tensor,
    /// `[tokens * top_k, hidden]`: room for what experts make of a token, a row for each choice.
    pub out_rows: Tensor,
}

/// A rank's share of the shared expert, a gated linear unit with SiLU.
#[derive(Clone, Copy, Debug)]
pub struct SharedExpertArgs {
    /// `[2 columns of this rank, hidden]`: rows of gate, then rows of up.
    pub gate_up: Weight,
    /// `[hidden, columns of this rank]`.
    pub down: Weight,
    /// `[1, hidden]`: the sigmoid of its product with the token weighs the shared expert.
    pub gate: Option<Weight>,
    /// `[tokens, columns of this rank]`: room between the gemms.
    pub inner_rows: Tensor,
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

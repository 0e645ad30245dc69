//! Grouped-query attention: three backend calls.

use binfer_shard::spec::Rope;

use super::step::LayerStep;
use crate::backend::args::{AttendArgs, LinearOutArgs, NormLinearArgs};
use crate::backend::{BackendError, Weight};
use crate::progress::Operation;

/// One attention layer as this rank holds it.
#[derive(Clone, Debug)]
pub struct GqaLayer {
    /// Index of the layer, and so of its cache.
    pub layer: usize,
    /// Index of the layer's KV group, and so of its block tables.
    pub kv_group: usize,
    /// Query heads of this rank.
    pub heads: usize,
    /// KV heads of this rank.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Rotation of queries and keys.
    pub rope: Rope,
    /// How many last positions attention sees; `None` where it sees all.
    pub window: Option<u32>,
    /// `[hidden]`.
    pub norm: Weight,
    /// `[(heads + 2 kv_heads) * head_dim, hidden]`.
    pub qkv: Weight,
    /// `[(heads + 2 kv_heads) * head_dim]`.
    pub qkv_bias: Option<Weight>,
    /// `[head_dim]`.
    pub q_norm: Option<Weight>,
    /// `[head_dim]`.
    pub k_norm: Option<Weight>,
    /// `[heads]`: attention sinks, a score without a value for each query head.
    pub sinks: Option<Weight>,
    /// `[hidden, heads * head_dim]`.
    pub out: Weight,
    /// `[hidden]`, the same on all ranks.
    pub out_bias: Option<Weight>,
}

impl GqaLayer {
    /// Columns of the fused QKV gemm.
    pub fn qkv_cols(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Columns of attention's output.
    pub fn attn_out_cols(&self) -> usize {
        self.heads * self.head_dim
    }

    /// The first of the three calls: `qkv(norm(x))`.
    pub fn qkv_args(&self, step: &LayerStep<'_>) -> NormLinearArgs {
        NormLinearArgs {
            x: step.x,
            norm: self.norm,
            eps: step.norm_eps,
            weight: self.qkv,
            bias: self.qkv_bias,
            glu: None,
            out: step.intermediate.with_cols(self.qkv_cols()),
        }
    }

    /// `x += out(attention(qkv(norm(x))))`, summed over ranks.
    pub fn forward(&self, step: &mut LayerStep<'_>) -> Result<(), BackendError> {
        let (x, eps, next, qkv) = (step.x, step.norm_eps, step.next, self.qkv_args(step));
        let attn_out = step.attn_out.with_cols(self.attn_out_cols());
        step.run(Operation::Qkv, self.layer, |backend| backend.norm_linear(&qkv))?;
        step.run(Operation::Attend, self.layer, |backend| {
            backend.attend(&AttendArgs {
                qkv: qkv.out,
                heads: self.heads,
                kv_heads: self.kv_heads,
                head_dim: self.head_dim,
                q_norm: self.q_norm,
                k_norm: self.k_norm,
                norm_eps: eps,
                rope: self.rope,
                layer: self.layer,
                kv_group: self.kv_group,
                window: self.window,
                sinks: self.sinks,
                out: attn_out,
            })
        })?;
        step.run(Operation::AttnOut, self.layer, |backend| {
            let (weight, bias, residual) = (self.out, self.out_bias, x);
            let args = LinearOutArgs { x: attn_out, weight, bias, residual, out: x, next };
            backend.linear_out(&args)
        })
    }
}

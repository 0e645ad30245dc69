//! Grouped-query attention: three backend calls.

use binfer_shard::spec::Rope;

use super::Step;
use crate::backend::args::{AttendArgs, LinearOutArgs, NormLinearArgs};
use crate::backend::{BackendError, Weight};
use crate::progress::Operation;

/// One attention layer as this rank holds it.
#[derive(Clone, Debug)]
pub struct GqaLayer {
    /// Index of the layer: its cache.
    pub layer: usize,
    /// Its block tables.
    pub kv_group: usize,
    /// Query heads of this rank.
    pub heads: usize,
    /// KV heads of this rank.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Rotation of queries and keys.
    pub rope: Rope,
    /// Last positions attended to; all where absent.
    pub window: Option<u32>,
    /// `[hidden]`.
    pub norm: Weight,
    /// `[(heads + 2 kv_heads) * head_dim, hidden]`.
    pub qkv: Weight,
    /// `[hidden, heads * head_dim]`.
    pub out: Weight,
}

impl GqaLayer {
    /// Columns of the fused product.
    pub fn qkv_cols(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Columns of attention's output.
    pub fn mixed_cols(&self) -> usize {
        self.heads * self.head_dim
    }

    /// `x += out(attention(qkv(norm(x))))`, summed over ranks.
    pub fn forward(&self, step: &mut Step<'_>) -> Result<(), BackendError> {
        let (x, eps) = (step.x, step.norm_eps);
        let qkv = step.wide.with_cols(self.qkv_cols());
        let mixed = step.mixed.with_cols(self.mixed_cols());
        step.run(Operation::Qkv, self.layer, |backend| {
            let (norm, weight) = (self.norm, self.qkv);
            backend.norm_linear(&NormLinearArgs { x, norm, eps, weight, glu: None, out: qkv })
        })?;
        step.run(Operation::Attend, self.layer, |backend| {
            backend.attend(&AttendArgs {
                qkv,
                heads: self.heads,
                kv_heads: self.kv_heads,
                head_dim: self.head_dim,
                rope: self.rope,
                layer: self.layer,
                kv_group: self.kv_group,
                window: self.window,
                out: mixed,
            })
        })?;
        step.run(Operation::AttendOut, self.layer, |backend| {
            backend.linear_out(&LinearOutArgs { x: mixed, weight: self.out, residual: x, out: x })
        })
    }
}

//! Multi-head latent attention: the gemms of queries and of what is cached, attention, and the gemm
//! behind it.

use binfer_shard::spec::{MlaDims, Rope};

use super::step::LayerStep;
use crate::backend::args::{AttendLatentArgs, LinearOutArgs, NormLinearArgs, Tensor};
use crate::backend::{BackendError, Weight};
use crate::progress::Operation;

/// One layer of latent attention as this rank holds it.
#[derive(Clone, Debug)]
pub struct MlaLayer {
    /// Index of the layer, and so of its cache.
    pub layer: usize,
    /// Index of the layer's KV group, and so of its block tables.
    pub kv_group: usize,
    /// Query heads of this rank.
    pub heads: usize,
    /// Widths of the parts of a head.
    pub dims: MlaDims,
    /// Rotation of queries and keys.
    pub rope: Rope,
    /// What scores are multiplied by.
    pub scale: f32,
    /// `[hidden]`.
    pub norm: Weight,
    /// What makes queries.
    pub queries: QueryWeights,
    /// `[latent + rope, hidden]`.
    pub kv_a: Weight,
    /// `[latent + rope]`.
    pub kv_a_bias: Option<Weight>,
    /// `[latent]`.
    pub kv_a_norm: Weight,
    /// `[heads * latent, nope]`.
    pub k_b: Weight,
    /// `[heads * value, latent]`.
    pub v_b: Weight,
    /// `[hidden, heads * value]`.
    pub out: Weight,
    /// `[hidden]`, the same on all ranks.
    pub out_bias: Option<Weight>,
}

/// The product that makes queries, whole or of low rank.
#[derive(Clone, Copy, Debug)]
pub enum QueryWeights {
    /// `[heads * query_dim, hidden]`.
    Whole(Weight),
    /// Two products with a norm between them.
    LowRank {
        /// `[rank, hidden]`, the same on all ranks.
        a: Weight,
        /// `[rank]`.
        a_bias: Option<Weight>,
        /// `[rank]`.
        norm: Weight,
        /// `[heads * query_dim, rank]`.
        b: Weight,
        /// Outputs of the first product.
        rank: usize,
    },
}

impl MlaLayer {
    /// The first operation: all queries, or what their second product multiplies.
    pub fn first_args(&self, step: &LayerStep<'_>) -> NormLinearArgs {
        match self.queries {
            QueryWeights::Whole(weight) => self.normed(step, weight, None, self.query_rows(step)),
            QueryWeights::LowRank { a, a_bias, rank, .. } => {
                self.normed(step, a, a_bias, step.query_a.with_cols(rank))
            }
        }
    }

    /// `x += out(attention(queries(norm(x)), kv_a(norm(x))))`, summed over ranks.
    pub fn forward(&self, step: &mut LayerStep<'_>) -> Result<(), BackendError> {
        let (x, next, first) = (step.x, step.next, self.first_args(step));
        let (queries, latent) = (self.query_rows(step), self.latent_rows(step));
        step.run(Operation::Queries, self.layer, |backend| backend.norm_linear(&first))?;
        if let QueryWeights::LowRank { norm, b, .. } = self.queries {
            let (eps, bias, glu) = (step.norm_eps, None, None);
            let args =
                NormLinearArgs { x: first.out, norm, eps, weight: b, bias, glu, out: queries };
            step.run(Operation::Queries, self.layer, |backend| backend.norm_linear(&args))?;
        }
        let cached = self.normed(step, self.kv_a, self.kv_a_bias, latent);
        step.run(Operation::Latent, self.layer, |backend| backend.norm_linear(&cached))?;
        let attend = self.attend_args(step);
        step.run(Operation::Attend, self.layer, |backend| backend.attend_latent(&attend))?;
        step.run(Operation::AttnOut, self.layer, |backend| {
            let (weight, bias, residual) = (self.out, self.out_bias, x);
            let args = LinearOutArgs { x: attend.out, weight, bias, residual, out: x, next };
            backend.linear_out(&args)
        })
    }

    fn attend_args(&self, step: &LayerStep<'_>) -> AttendLatentArgs {
        let value_dim = self.dims.value as usize;
        AttendLatentArgs {
            queries: self.query_rows(step),
            latent: self.latent_rows(step),
            latent_norm: self.kv_a_norm,
            norm_eps: step.norm_eps,
            k_b: self.k_b,
            v_b: self.v_b,
            heads: self.heads,
            nope: self.dims.nope as usize,
            latent_dim: self.dims.latent as usize,
            value_dim,
            rope: self.rope,
            scale: self.scale,
            layer: self.layer,
            kv_group: self.kv_group,
            out: step.attn_out.with_cols(self.heads * value_dim),
        }
    }

    /// A product of the normed residual stream.
    fn normed(
        &self,
        step: &LayerStep<'_>,
        weight: Weight,
        bias: Option<Weight>,
        out: Tensor,
    ) -> NormLinearArgs {
        let (norm, eps) = (self.norm, step.norm_eps);
        NormLinearArgs { x: step.x, norm, eps, weight, bias, glu: None, out }
    }

    fn query_rows(&self, step: &LayerStep<'_>) -> Tensor {
        step.queries.with_cols(self.heads * (self.dims.nope + self.rope.dims) as usize)
    }

    fn latent_rows(&self, step: &LayerStep<'_>) -> Tensor {
        step.latent.with_cols((self.dims.latent + self.rope.dims) as usize)
    }
}

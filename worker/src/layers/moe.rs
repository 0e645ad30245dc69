//! A mixture of experts: one backend call.

use binfer_shard::spec::{ActivationFn, Routing};

use super::step::LayerStep;
use crate::backend::args::{ExpertsArgs, MoeArgs, RouterArgs, SharedExpertArgs};
use crate::backend::{BackendError, Weight};
use crate::progress::Operation;

/// One mixture of experts as this rank holds it.
#[derive(Clone, Debug)]
pub struct MoeLayer {
    /// Index of the layer.
    pub layer: usize,
    /// Experts over all ranks.
    pub experts: usize,
    /// How a token's experts are chosen.
    pub routing: Routing,
    /// Number of this rank's first expert.
    pub first: usize,
    /// Experts of this rank.
    pub count: usize,
    /// Columns between an expert's gemms.
    pub inner: usize,
    /// The activation function of the experts.
    pub act: ActivationFn,
    /// `[hidden]`.
    pub norm: Weight,
    /// `[experts, hidden]`.
    pub router: Weight,
    /// `[experts]`.
    pub router_bias: Option<Weight>,
    /// `[experts]`.
    pub correction: Option<Weight>,
    /// `[count * 2 inner, hidden]`.
    pub gate_up: Weight,
    /// `[count * 2 inner]`.
    pub gate_up_bias: Option<Weight>,
    /// `[count * hidden, inner]`.
    pub down: Weight,
    /// `[count * hidden]`.
    pub down_bias: Option<Weight>,
    /// The expert that sees every token.
    pub shared: Option<SharedExpert>,
}

/// This rank's columns of a shared expert.
#[derive(Clone, Copy, Debug)]
pub struct SharedExpert {
    /// Columns between the gemms on this rank.
    pub inner: usize,
    /// `[2 inner, hidden]`.
    pub gate_up: Weight,
    /// `[hidden, inner]`.
    pub down: Weight,
    /// `[1, hidden]`.
    pub gate: Option<Weight>,
}

impl MoeLayer {
    /// `x += experts(norm(x)) + shared(norm(x))`, summed over ranks.
    pub fn forward(&self, step: &mut LayerStep<'_>) -> Result<(), BackendError> {
        let args = self.args(step);
        step.run(Operation::Moe, self.layer, |backend| backend.moe(&args))
    }

    fn args(&self, step: &LayerStep<'_>) -> MoeArgs {
        let choices = step.x.rows * self.routing.top_k as usize;
        let shared = self.shared.map(|shared| SharedExpertArgs {
            gate_up: shared.gate_up,
            down: shared.down,
            gate: shared.gate,
            inner_rows: step.intermediate.with_cols(shared.inner),
        });
        MoeArgs {
            x: step.x,
            norm: self.norm,
            eps: step.norm_eps,
            router: RouterArgs {
                weight: self.router,
                bias: self.router_bias,
                correction: self.correction,
                experts: self.experts,
                routing: self.routing,
            },
            experts: ExpertsArgs {
                first: self.first,
                count: self.count,
                inner: self.inner,
                act: self.act,
                gate_up: self.gate_up,
                gate_up_bias: self.gate_up_bias,
                down: self.down,
                down_bias: self.down_bias,
                inner_rows: step.expert_inner.with_rows(choices).with_cols(self.inner),
                out_rows: step.expert_out.with_rows(choices),
            },
            shared,
            out: step.x,
            next: step.next,
        }
    }
}

//! Gated linear unit: two backend calls.

use binfer_shard::spec::ActivationFn;

use super::step::LayerStep;
use crate::backend::args::{LinearOutArgs, NormLinearArgs};
use crate::backend::{BackendError, Weight};
use crate::progress::Operation;

/// One gated linear unit as this rank holds it.
#[derive(Clone, Debug)]
pub struct GluLayer {
    /// Index of the layer.
    pub layer: usize,
    /// Columns between the gemms on this rank.
    pub inner: usize,
    /// The activation function of the gate.
    pub act: ActivationFn,
    /// `[hidden]`.
    pub norm: Weight,
    /// `[2 inner, hidden]`: rows of gate, then rows of up.
    pub gate_up: Weight,
    /// `[2 inner]`: the bias of gate, then that of up.
    pub gate_up_bias: Option<Weight>,
    /// `[hidden, inner]`.
    pub down: Weight,
    /// `[hidden]`, the same on all ranks.
    pub down_bias: Option<Weight>,
}

impl GluLayer {
    /// The first of the two calls: `act(gate(norm(x))) * up(norm(x))`.
    pub fn gate_up_args(&self, step: &LayerStep<'_>) -> NormLinearArgs {
        NormLinearArgs {
            x: step.x,
            norm: self.norm,
            eps: step.norm_eps,
            weight: self.gate_up,
            bias: self.gate_up_bias,
            glu: Some(self.act),
            out: step.intermediate.with_cols(self.inner),
        }
    }

    /// `x += down(act(gate(norm(x))) * up(norm(x)))`, summed over ranks.
    pub fn forward(&self, step: &mut LayerStep<'_>) -> Result<(), BackendError> {
        let (x, next, gate_up) = (step.x, step.next, self.gate_up_args(step));
        step.run(Operation::GateUp, self.layer, |backend| backend.norm_linear(&gate_up))?;
        step.run(Operation::Down, self.layer, |backend| {
            let (weight, bias, residual) = (self.down, self.down_bias, x);
            let args = LinearOutArgs { x: gate_up.out, weight, bias, residual, out: x, next };
            backend.linear_out(&args)
        })
    }
}

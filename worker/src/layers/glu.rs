//! Gated feed-forward: two backend calls.

use binfer_shard::spec::Act;

use super::Step;
use crate::backend::args::{LinearOutArgs, NormLinearArgs};
use crate::backend::{BackendError, Weight};
use crate::progress::Operation;

/// One gated feed-forward as this rank holds it.
#[derive(Clone, Debug)]
pub struct Glu {
    /// Index of the layer.
    pub layer: usize,
    /// Width between the products on this rank.
    pub inner: usize,
    /// Applied to the gate.
    pub act: Act,
    /// `[hidden]`.
    pub norm: Weight,
    /// `[2 inner, hidden]`, gate rows then up rows.
    pub gate_up: Weight,
    /// `[2 inner]`, likewise.
    pub gate_up_bias: Option<Weight>,
    /// `[hidden, inner]`.
    pub down: Weight,
    /// `[hidden]`, the same on all ranks.
    pub down_bias: Option<Weight>,
}

impl Glu {
    /// `x += down(act(gate(norm(x))) * up(norm(x)))`, summed over ranks.
    pub fn forward(&self, step: &mut Step<'_>) -> Result<(), BackendError> {
        let (x, eps, next_norm) = (step.x, step.norm_eps, step.next_norm);
        let inner = step.wide.with_cols(self.inner);
        step.run(Operation::GateUp, self.layer, |backend| {
            let (norm, glu, out) = (self.norm, Some(self.act), inner);
            let (weight, bias) = (self.gate_up, self.gate_up_bias);
            backend.norm_linear(&NormLinearArgs { x, norm, eps, weight, bias, glu, out })
        })?;
        step.run(Operation::Down, self.layer, |backend| {
            let (weight, bias, residual) = (self.down, self.down_bias, x);
            let args = LinearOutArgs { x: inner, weight, bias, residual, out: x, next_norm };
            backend.linear_out(&args)
        })
    }
}

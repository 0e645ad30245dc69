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
    /// `[hidden, inner]`.
    pub down: Weight,
}

impl Glu {
    /// `x += down(act(gate(norm(x))) * up(norm(x)))`, summed over ranks.
    pub fn forward(&self, step: &mut Step<'_>) -> Result<(), BackendError> {
        let (x, eps) = (step.x, step.norm_eps);
        let inner = step.wide.with_cols(self.inner);
        step.run(Operation::GateUp, self.layer, |backend| {
            let (norm, weight, glu) = (self.norm, self.gate_up, Some(self.act));
            backend.norm_linear(&NormLinearArgs { x, norm, eps, weight, glu, out: inner })
        })?;
        step.run(Operation::Down, self.layer, |backend| {
            backend.linear_out(&LinearOutArgs { x: inner, weight: self.down, residual: x, out: x })
        })
    }
}

//! Contracts of the operations that only some models have: mixtures of experts, latent attention.

use super::BackendError;
use super::args::{AttendLatentArgs, MoeArgs};
use super::check::{Contract, StepShape, WeightShape};

/// Shapes of the weights of [`MoeArgs`].
#[derive(Clone, Copy, Debug)]
pub struct MoeShapes {
    /// Scale of the norm.
    pub norm: WeightShape,
    /// Weight, bias and correction of the router.
    pub router: (WeightShape, Option<WeightShape>, Option<WeightShape>),
    /// Gate and up of the experts, and their bias.
    pub gate_up: (WeightShape, Option<WeightShape>),
    /// Down of the experts, and its bias.
    pub down: (WeightShape, Option<WeightShape>),
    /// Gate and up, down and gate of the shared expert.
    pub shared: Option<(WeightShape, WeightShape, Option<WeightShape>)>,
}

impl MoeArgs {
    /// Refuses what breaks the contract.
    pub fn check(&self, step: &StepShape, shapes: &MoeShapes) -> Result<(), BackendError> {
        let contract = Contract { operation: "moe", step };
        let (hidden, experts, router) = (self.x.cols, &self.experts, &self.router);
        let choices = router.routing.top_k as usize;
        if choices == 0
            || choices > router.experts
            || experts.first + experts.count > router.experts
        {
            let (first, count, of) = (experts.first, experts.count, router.experts);
            let cause = format!("{count} experts from {first} on, of {of}, {choices} a token");
            return contract.refuse(cause);
        }
        contract.weight("norm", shapes.norm, 1, hidden)?;
        contract.weight("router", shapes.router.0, router.experts, hidden)?;
        contract.vector("router bias", shapes.router.1, router.experts)?;
        contract.vector("correction", shapes.router.2, router.experts)?;
        let (inner_rows, out_rows) = (experts.count * 2 * experts.inner, experts.count * hidden);
        contract.weight("gate_up", shapes.gate_up.0, inner_rows, hidden)?;
        contract.vector("gate_up bias", shapes.gate_up.1, inner_rows)?;
        contract.weight("down", shapes.down.0, out_rows, experts.inner)?;
        contract.vector("down bias", shapes.down.1, out_rows)?;
        contract.tensor("x", &self.x, step.tokens, hidden)?;
        contract.tensor("out", &self.out, step.tokens, hidden)?;
        let rooms = [experts.inner_rows, experts.out_rows];
        contract.tensor("inner rows", &rooms[0], step.tokens * choices, experts.inner)?;
        contract.tensor("out rows", &rooms[1], step.tokens * choices, hidden)?;
        contract.apart(&rooms[0], &rooms[1])?;
        for room in &rooms {
            contract.apart(&self.x, room)?;
            contract.apart(&self.out, room)?;
        }
        if self.out != self.x {
            contract.apart(&self.x, &self.out)?;
        }
        self.check_shared(&contract, shapes)
    }

    fn check_shared(
        &self,
        contract: &Contract<'_>,
        shapes: &MoeShapes,
    ) -> Result<(), BackendError> {
        let (shared, shapes) = match (&self.shared, shapes.shared) {
            (None, None) => return Ok(()),
            (Some(shared), Some(shapes)) => (shared, shapes),
            _ => return contract.refuse("a shared expert without weights".to_owned()),
        };
        let (room, hidden) = (shared.inner_rows, self.x.cols);
        contract.weight("shared gate_up", shapes.0, 2 * room.cols, hidden)?;
        contract.weight("shared down", shapes.1, hidden, room.cols)?;
        contract.vector("shared gate", shapes.2, hidden)?;
        contract.tensor("shared inner rows", &room, contract.step.tokens, room.cols)?;
        for other in [&self.x, &self.out, &self.experts.inner_rows, &self.experts.out_rows] {
            contract.apart(&room, other)?;
        }
        Ok(())
    }
}

impl AttendLatentArgs {
    /// Refuses what breaks the contract. Shapes are those of the norm, of `k_b` and of `v_b`.
    pub fn check(
        &self,
        step: &StepShape,
        [norm, k_b, v_b]: [WeightShape; 3],
    ) -> Result<(), BackendError> {
        let contract = Contract { operation: "attend_latent", step };
        let Self { heads, nope, latent_dim, value_dim, rope, .. } = *self;
        let rope_dim = rope.dims as usize;
        if heads == 0 || !rope_dim.is_multiple_of(2) || !self.scale.is_finite() {
            let scale = self.scale;
            return contract.refuse(format!("{heads} heads, {rope:?}, scale {scale}"));
        }
        contract.weight("norm", norm, 1, latent_dim)?;
        contract.weight("k_b", k_b, heads * latent_dim, nope)?;
        contract.weight("v_b", v_b, heads * value_dim, latent_dim)?;
        contract.tensor("queries", &self.queries, step.tokens, heads * (nope + rope_dim))?;
        contract.tensor("latent", &self.latent, step.tokens, latent_dim + rope_dim)?;
        contract.tensor("out", &self.out, step.tokens, heads * value_dim)?;
        contract.apart(&self.queries, &self.latent)?;
        contract.apart(&self.queries, &self.out)?;
        contract.apart(&self.latent, &self.out)
    }
}

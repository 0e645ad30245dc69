//! What a mixture of experts makes of a token, in double precision.

use binfer_shard::spec::{ActivationFn, Routing};

use super::super::oracle::{self, ExpertRows, Sum, add_weighted};
use super::Mixture;

/// Ids and weights of a token's experts.
pub(super) type Choice = Vec<(usize, f64)>;

/// Chooses a token's experts by its logits.
pub(super) fn route(routing: &Routing, logits: &[f64], correction: &[f64]) -> Choice {
    oracle::route(logits, Some(correction), routing).experts
}

/// What a token becomes, on a rank that adds the residual.
pub(super) fn token(of: &Mixture, x: &[f32], normed: &[f64], choice: &Choice) -> Vec<Sum> {
    let residual = |x: &f32| Sum { value: f64::from(*x), size: f64::from(x.abs()) };
    let mut out: Vec<Sum> = x.iter().map(residual).collect();
    let (inner, hidden) = (of.inner, x.len());
    for (expert, weight) in choice {
        let Some(local) = expert.checked_sub(of.first).filter(|local| *local < of.count) else {
            continue;
        };
        let rows = ExpertRows {
            gate_up: &of.gate_up.rows[local * 2 * inner..][..2 * inner],
            gate_up_bias: of
                .gate_up_bias
                .as_ref()
                .map(|bias| &bias[local * 2 * inner..][..2 * inner]),
            down: &of.down.rows[local * hidden..][..hidden],
            down_bias: of.down_bias.as_ref().map(|bias| &bias[local * hidden..][..hidden]),
        };
        add_weighted(&mut out, *weight, &oracle::expert(normed, rows, of.act));
    }
    if let Some(shared) = &of.shared {
        let (gate_up, down) = (&shared.gate_up.rows, &shared.down.rows);
        let rows = ExpertRows { gate_up, gate_up_bias: None, down, down_bias: None };
        let gate = shared.gate.as_ref().map(|gate| oracle::dot(normed, &gate.rows[0]).value);
        let weight = gate.map_or(1.0, oracle::sigmoid);
        add_weighted(&mut out, weight, &oracle::expert(normed, rows, ActivationFn::Silu));
    }
    out
}

//! What a mixture of experts means, in double precision: routing, experts, their sum.

use binfer_shard::spec::{ActivationFn, GroupScore, RouterScores, Routing};

use super::super::oracle::{self, Sum};
use super::Mixture;

/// Ids and weights of a token's experts.
pub(super) type Choice = Vec<(usize, f64)>;

/// Chooses a token's experts by its logits.
pub(super) fn route(routing: &Routing, logits: &[f64], correction: &[f64]) -> Choice {
    let scores: Vec<f64> = match routing.scores {
        RouterScores::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
        RouterScores::Softmax => {
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = logits.iter().map(|x| (x - largest).exp()).sum();
            logits.iter().map(|x| (x - largest).exp() / total).collect()
        }
    };
    let corrected: Vec<f64> = scores.iter().zip(correction).map(|(a, b)| a + b).collect();
    let kept = kept_experts(routing, &corrected);
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| {
        let key = |expert: usize| (kept[expert], corrected[expert]);
        key(*b).partial_cmp(&key(*a)).unwrap().then(a.cmp(b))
    });
    order.truncate(routing.top_k as usize);
    let sum: f64 = order.iter().map(|expert| scores[*expert]).sum();
    let divisor = if routing.normalize { sum + 1e-20 } else { 1.0 };
    let weight = |expert: usize| scores[expert] / divisor * f64::from(routing.scale);
    order.into_iter().map(|expert| (expert, weight(expert))).collect()
}

/// Which experts are in groups that are kept.
fn kept_experts(routing: &Routing, corrected: &[f64]) -> Vec<bool> {
    let Some(groups) = routing.expert_groups else { return vec![true; corrected.len()] };
    let each = corrected.len() / groups.count as usize;
    let score = |group: &[f64]| {
        let mut sorted = group.to_vec();
        sorted.sort_by(|a, b| b.partial_cmp(a).unwrap());
        match groups.score {
            GroupScore::Max => sorted[0],
            GroupScore::TopTwoSum => sorted.iter().take(2).sum(),
        }
    };
    let scores: Vec<f64> = corrected.chunks(each).map(score).collect();
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].partial_cmp(&scores[*a]).unwrap().then(a.cmp(b)));
    let kept = &order[..groups.kept as usize];
    (0..corrected.len()).map(|expert| kept.contains(&(expert / each))).collect()
}

fn gated(act: ActivationFn, sums: &[Sum]) -> Vec<Sum> {
    let ActivationFn::ClampedSwiglu { limit } = act else { return oracle::silu_gate(sums) };
    let limit = f64::from(limit);
    let (gate, up) = sums.split_at(sums.len() / 2);
    let one = |(gate, up): (&Sum, &Sum)| {
        let (x, y) = (gate.value.min(limit), up.value.clamp(-limit, limit) + 1.0);
        let value = x / (1.0 + (-f64::from(ActivationFn::SWIGLU_ALPHA) * x).exp()) * y;
        Sum { value, size: gate.size * (2.0 + up.size) }
    };
    gate.iter().zip(up).map(one).collect()
}

fn biased(sums: Vec<Sum>, bias: Option<&[f64]>) -> Vec<Sum> {
    let Some(bias) = bias else { return sums };
    let add =
        |(sum, bias): (Sum, &f64)| Sum { value: sum.value + bias, size: sum.size + bias.abs() };
    sums.into_iter().zip(bias).map(add).collect()
}

/// Rows of a weight times `x`, which has the sizes of its own sums.
fn gemm_of_sums(x: &[Sum], rows: &[Vec<f64>]) -> Vec<Sum> {
    let (values, sizes): (Vec<f64>, Vec<f64>) = x.iter().map(|x| (x.value, x.size)).unzip();
    let row = |row: &Vec<f64>| {
        let value = oracle::dot(&values, row).value;
        let size = sizes.iter().zip(row).map(|(x, w)| x * w.abs()).sum();
        Sum { value, size }
    };
    rows.iter().map(row).collect()
}

/// What a token becomes, on a rank that adds the residual.
pub(super) fn token(of: &Mixture, x: &[f32], normed: &[f64], choice: &Choice) -> Vec<Sum> {
    let residual = |x: &f32| Sum { value: f64::from(*x), size: f64::from(x.abs()) };
    let mut out: Vec<Sum> = x.iter().map(residual).collect();
    let mut add = |sums: &[Sum], weight: f64| {
        for (out, sum) in out.iter_mut().zip(sums) {
            out.value += weight * sum.value;
            out.size += weight.abs() * sum.size;
        }
    };
    let (inner, hidden) = (of.inner, x.len());
    for (expert, weight) in choice {
        let Some(local) = expert.checked_sub(of.first).filter(|local| *local < of.count) else {
            continue;
        };
        let gate_up = &of.gate_up.rows[local * 2 * inner..][..2 * inner];
        let bias = of.gate_up_bias.as_ref().map(|bias| &bias[local * 2 * inner..][..2 * inner]);
        let between = gated(of.act, &biased(oracle::gemm(normed, gate_up), bias));
        let bias = of.down_bias.as_ref().map(|bias| &bias[local * hidden..][..hidden]);
        let down = &of.down.rows[local * hidden..][..hidden];
        add(&biased(gemm_of_sums(&between, down), bias), *weight);
    }
    if let Some(shared) = &of.shared {
        let between = oracle::silu_gate(&oracle::gemm(normed, &shared.gate_up.rows));
        let gate = shared.gate.as_ref().map(|gate| oracle::dot(normed, &gate.rows[0]).value);
        let weight = gate.map_or(1.0, |gate| 1.0 / (1.0 + (-gate).exp()));
        add(&gemm_of_sums(&between, &shared.down.rows), weight);
    }
    out
}

//! What the operations mean, in double precision and in as few lines as possible.

use binfer_shard::spec::{ActivationFn, GroupScore, RouterScores, Routing};

/// A sum, and the sum of its terms' magnitudes: the yardstick for rounding.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend) struct Sum {
    pub(in crate::backend) value: f64,
    pub(in crate::backend) size: f64,
}

/// Sums in lanes, which compilers make fast.
pub(in crate::backend) fn dot(a: &[f64], b: &[f64]) -> Sum {
    const LANES: usize = 8;
    let (mut value, mut size) = ([0.0; LANES], [0.0; LANES]);
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        for (lane, (a, b)) in a.iter().zip(b).enumerate() {
            value[lane] += a * b;
            size[lane] += (a * b).abs();
        }
    }
    Sum { value: value.iter().sum(), size: size.iter().sum() }
}

pub(in crate::backend) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

pub(in crate::backend) fn rms_norm(x: &[f32], scale: &[f64], eps: f32) -> Vec<f64> {
    let x = wide(x);
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let factor = 1.0 / (mean + f64::from(eps)).sqrt();
    x.iter().zip(scale).map(|(x, scale)| scale * x * factor).collect()
}

pub(in crate::backend) fn gemm(x: &[f64], rows: &[Vec<f64>]) -> Vec<Sum> {
    rows.iter().map(|row| dot(x, row)).collect()
}

/// Rows of a weight times numbers that are sums themselves: what those may be off by counts.
fn gemm_of_sums(x: &[Sum], rows: &[Vec<f64>]) -> Vec<Sum> {
    let value = |row: &[f64]| x.iter().zip(row).map(|(x, w)| x.value * w).sum();
    let size = |row: &[f64]| x.iter().zip(row).map(|(x, w)| x.size * w.abs()).sum();
    rows.iter().map(|row| Sum { value: value(row), size: size(row) }).collect()
}

fn add_bias(sums: &mut [Sum], bias: Option<&[f64]>) {
    for (sum, bias) in sums.iter_mut().zip(bias.unwrap_or_default()) {
        *sum = Sum { value: sum.value + bias, size: sum.size + bias.abs() };
    }
}

pub(in crate::backend) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The gated linear unit of rows of gate and then of up.
pub(in crate::backend) fn glu(act: ActivationFn, gate_up: &[Sum]) -> Vec<Sum> {
    let (gate, up) = gate_up.split_at(gate_up.len() / 2);
    let pairs = gate.iter().zip(up);
    pairs
        .map(|(gate, up)| match act {
            ActivationFn::Silu => {
                let value = gate.value * sigmoid(gate.value) * up.value;
                Sum { value, size: gate.size * (1.0 + up.size) }
            }
            ActivationFn::ClampedSwiglu { limit } => {
                let limit = f64::from(limit);
                let alpha = f64::from(ActivationFn::SWIGLU_ALPHA);
                let (g, u) = (gate.value.min(limit), up.value.clamp(-limit, limit));
                let value = g * sigmoid(alpha * g) * (u + 1.0);
                Sum { value, size: gate.size * (2.0 + up.size) }
            }
        })
        .collect()
}

/// A token's experts.
#[derive(Clone, Debug)]
pub(in crate::backend) struct Route {
    /// Number and weight of each, in the order of choice.
    pub(in crate::backend) experts: Vec<(usize, f64)>,
    /// By how much scores, correction included, must change before the set is another one.
    pub(in crate::backend) margin: f64,
}

/// Routes a token by its router's logits.
pub(in crate::backend) fn route(
    logits: &[f64],
    correction: Option<&[f64]>,
    routing: &Routing,
) -> Route {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    let score = |logit: &f64| match routing.scores {
        RouterScores::Softmax => (logit - largest).exp() / total,
        RouterScores::Sigmoid => sigmoid(*logit),
    };
    let scores: Vec<f64> = logits.iter().map(score).collect();
    let mut keys = scores.clone();
    keys.iter_mut().zip(correction.unwrap_or_default()).for_each(|(key, added)| *key += added);
    let mut margin = f64::INFINITY;
    if let Some(expert_groups) = routing.expert_groups {
        let members = keys.len() / expert_groups.count as usize;
        let group_key = |keys: &[f64]| {
            let (order, _) = best(keys, 2.min(keys.len()));
            match expert_groups.score {
                GroupScore::Max => keys[order[0]],
                GroupScore::TopTwoSum => order.iter().map(|index| keys[*index]).sum(),
            }
        };
        let group_keys: Vec<f64> = keys.chunks(members).map(group_key).collect();
        let (kept, group_margin) = best(&group_keys, expert_groups.kept as usize);
        margin = group_margin;
        for (index, keys) in keys.chunks_mut(members).enumerate() {
            if !kept.contains(&index) {
                keys.fill(f64::NEG_INFINITY);
            }
        }
    }
    let (chosen, expert_margin) = best(&keys, routing.top_k as usize);
    let total: f64 = chosen.iter().map(|index| scores[*index]).sum();
    let divisor = if routing.normalize { total + 1e-20 } else { 1.0 };
    let weight = |index| scores[index] / divisor * f64::from(routing.scale);
    let experts = chosen.into_iter().map(|index| (index, weight(index))).collect();
    Route { experts, margin: margin.min(expert_margin) }
}

/// The places of the `count` largest, the largest first and ties to the lower place; and how much
/// larger the last of them is than the next.
fn best(keys: &[f64], count: usize) -> (Vec<usize>, f64) {
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by(|a, b| keys[*b].total_cmp(&keys[*a]).then(a.cmp(b)));
    let next = order.get(count).map_or(f64::NEG_INFINITY, |next| keys[*next]);
    let margin = keys[order[count - 1]] - next;
    order.truncate(count);
    (order, margin)
}

/// One expert's weights and biases.
#[derive(Clone, Copy)]
pub(in crate::backend) struct ExpertRows<'a> {
    /// `[2 inner][hidden]`, gate and then up.
    pub(in crate::backend) gate_up: &'a [Vec<f64>],
    pub(in crate::backend) gate_up_bias: Option<&'a [f64]>,
    /// `[hidden][inner]`.
    pub(in crate::backend) down: &'a [Vec<f64>],
    pub(in crate::backend) down_bias: Option<&'a [f64]>,
}

/// What an expert makes of a normed token.
pub(in crate::backend) fn expert(x: &[f64], rows: ExpertRows<'_>, act: ActivationFn) -> Vec<Sum> {
    let mut gate_up = gemm(x, rows.gate_up);
    add_bias(&mut gate_up, rows.gate_up_bias);
    let mut out = gemm_of_sums(&glu(act, &gate_up), rows.down);
    add_bias(&mut out, rows.down_bias);
    out
}

/// `sums += weight * x`.
pub(in crate::backend) fn add_weighted(sums: &mut [Sum], weight: f64, x: &[Sum]) {
    for (sum, x) in sums.iter_mut().zip(x) {
        sum.value += weight * x.value;
        sum.size += weight.abs() * x.size;
    }
}

/// Rotates the first `dims` elements of a head, halves as pairs.
pub(in crate::backend) fn rotate(
    head: &[f64],
    position: usize,
    dims: usize,
    theta: f64,
) -> Vec<f64> {
    let mut out = head.to_vec();
    for i in 0..dims / 2 {
        let angle = position as f64 / theta.powf(2.0 * i as f64 / dims as f64);
        let (a, b) = (head[i], head[i + dims / 2]);
        out[i] = a * angle.cos() - b * angle.sin();
        out[i + dims / 2] = b * angle.cos() + a * angle.sin();
    }
    out
}

/// Attention of one query over keys and values, all of which it sees, and over a score without a
/// value.
pub(in crate::backend) fn attention(
    query: &[f64],
    keys: &[Vec<f64>],
    values: &[Vec<f64>],
    sink: Option<f64>,
) -> Vec<Sum> {
    let scale = 1.0 / (query.len() as f64).sqrt();
    let scores: Vec<f64> = keys.iter().map(|key| dot(query, key).value * scale).collect();
    let mean = softmax_mean(&scores, values, sink);
    mean.into_iter().map(|value| Sum { value, size: 1.0 }).collect()
}

/// The mean of `values`, weighed by the softmax of `scores` and of a score without a value.
fn softmax_mean(scores: &[f64], values: &[Vec<f64>], sink: Option<f64>) -> Vec<f64> {
    let largest = scores.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let total = weights.iter().sum::<f64>() + sink.map_or(0.0, |sink| (sink - largest).exp());
    let mut sums = vec![0.0; values[0].len()];
    for (weight, value) in weights.iter().zip(values) {
        sums.iter_mut().zip(value).for_each(|(sum, value)| *sum += weight / total * value);
    }
    sums
}

/// A head's weights in latent attention.
#[derive(Clone, Copy)]
pub(in crate::backend) struct LatentHead<'a> {
    /// `[latent][nope]`.
    pub(in crate::backend) k_b: &'a [Vec<f64>],
    /// `[value][latent]`.
    pub(in crate::backend) v_b: &'a [Vec<f64>],
    /// What scores are multiplied by.
    pub(in crate::backend) scale: f64,
}

/// Latent attention of one head's rotated query, `[nope + rope]`, over cached positions, each the
/// normed latent vector and the rotated key, all of which it sees. Keys and values are expanded
/// here, as the paper defines them.
pub(in crate::backend) fn latent_attention(
    query: &[f64],
    cached: &[Vec<f64>],
    head: LatentHead<'_>,
) -> Vec<Sum> {
    let (latent_dim, nope) = (head.k_b.len(), head.k_b[0].len());
    let (mut scores, mut values) = (Vec::new(), Vec::new());
    for position in cached {
        let (latent, rotated) = position.split_at(latent_dim);
        let mut key = vec![0.0; nope];
        for (x, row) in latent.iter().zip(head.k_b) {
            key.iter_mut().zip(row).for_each(|(key, weight)| *key += x * weight);
        }
        key.extend(rotated);
        scores.push(dot(query, &key).value * head.scale);
        values.push(gemm(latent, head.v_b).iter().map(|sum| sum.value).collect());
    }
    let mean = softmax_mean(&scores, &values, None);
    let rows = head.v_b.iter().map(|row| row.iter().map(|weight| weight.abs()).sum());
    mean.into_iter().zip(rows).map(|(value, size)| Sum { value, size }).collect()
}

//! What the operations mean, in double precision and in as few lines as possible.

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

pub(in crate::backend) fn silu_gate(gate_up: &[Sum]) -> Vec<Sum> {
    let (gate, up) = gate_up.split_at(gate_up.len() / 2);
    let silu = |x: f64| x / (1.0 + (-x).exp());
    gate.iter()
        .zip(up)
        .map(|(gate, up)| {
            let size = gate.size * (1.0 + up.size);
            Sum { value: silu(gate.value) * up.value, size }
        })
        .collect()
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
    let largest = scores.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let total = weights.iter().sum::<f64>() + sink.map_or(0.0, |sink| (sink - largest).exp());
    let mut sums = vec![0.0; query.len()];
    for (weight, value) in weights.iter().zip(values) {
        sums.iter_mut().zip(value).for_each(|(sum, value)| *sum += weight / total * value);
    }
    sums.into_iter().map(|value| Sum { value, size: 1.0 }).collect()
}

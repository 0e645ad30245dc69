//! Latent attention in double precision, and that nothing is lost where nothing is expanded.

use binfer_shard::spec::{Rope, RopeScaling};

use super::{Known, Random, oracle};
use crate::backend::args::{AttendLatentArgs, Tensor};

const EPS: f32 = 1e-6;
const THETA: f64 = 10_000.0;

/// A shape of latent attention.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) heads: usize,
    pub(super) nope: usize,
    pub(super) rope_dim: usize,
    pub(super) latent_dim: usize,
    pub(super) value_dim: usize,
}

impl Shape {
    pub(super) fn query_dim(&self) -> usize {
        self.nope + self.rope_dim
    }

    pub(super) fn entry(&self) -> usize {
        self.latent_dim + self.rope_dim
    }

    /// Not what every other kind of attention has, so that it is seen to be taken from here.
    fn scale(&self) -> f32 {
        0.4 / (self.query_dim() as f32).sqrt()
    }

    pub(super) fn args(
        &self,
        at: &[Tensor],
        rows: usize,
        weights: &[Known; 3],
    ) -> AttendLatentArgs {
        let dims = self.rope_dim as u32;
        let [latent_norm, k_b, v_b] = [0, 1, 2].map(|index| weights[index].weight);
        let [queries, latent, out] = [0, 1, 2].map(|index: usize| at[index].with_rows(rows));
        let Self { heads, nope, latent_dim, value_dim, .. } = *self;
        AttendLatentArgs {
            queries,
            latent,
            latent_norm,
            norm_eps: EPS,
            k_b,
            v_b,
            heads,
            nope,
            latent_dim,
            value_dim,
            rope: Rope { theta: THETA, dims, scaling: RopeScaling::None },
            scale: self.scale(),
            layer: 0,
            kv_group: 0,
            out,
        }
    }

    /// Entries of the first so many tokens as the cache should have them.
    fn entries(&self, latents: &[f32], norm: &[f64], tokens: usize) -> Vec<Vec<f64>> {
        let entry = |stored: &[f32]| {
            let (latent, key) = stored.split_at(self.latent_dim);
            (oracle::rms_norm(latent, norm, EPS), key.to_vec())
        };
        let all = latents.chunks(self.entry()).take(tokens).map(entry).enumerate();
        all.map(|(token, (latent, key))| [latent, self.rotated(&key, token)].concat()).collect()
    }

    fn rotated(&self, x: &[f32], token: usize) -> Vec<f64> {
        oracle::rotate(&oracle::wide(x), token, self.rope_dim, THETA)
    }

    /// A token's query heads, rotated and scaled: the parts that are not rotated, and the others.
    fn queries(&self, queries: &[f32], token: usize) -> Vec<(Vec<f64>, Vec<f64>)> {
        let scaled = |x: Vec<f64>| x.into_iter().map(|x| x * f64::from(self.scale())).collect();
        let of_token = queries.chunks(self.query_dim()).skip(token * self.heads).take(self.heads);
        let parts = of_token.map(|query| query.split_at(self.nope));
        parts
            .map(|(nope, rope)| (scaled(oracle::wide(nope)), scaled(self.rotated(rope, token))))
            .collect()
    }

    /// Outputs of some tokens of a sequence: each head's query meets latent vectors, and their mean
    /// becomes its output.
    pub(super) fn oracle(
        &self,
        (queries, latents): (&[f32], &[f32]),
        [norm, k_b, v_b]: [&[Vec<f64>]; 3],
        wanted: &[usize],
    ) -> Vec<oracle::Sum> {
        let seen = wanted.iter().max().map_or(0, |last| last + 1);
        let entries = self.entries(latents, &norm[0], seen);
        let mut out = Vec::new();
        for token in wanted {
            for (head, (nope, rope)) in self.queries(queries, *token).into_iter().enumerate() {
                let absorbed =
                    oracle::gemm(&nope, &k_b[head * self.latent_dim..][..self.latent_dim]);
                let query: Vec<f64> = absorbed.iter().map(|sum| sum.value).chain(rope).collect();
                let (mean, size) = mean(&query, &entries[..=*token], self.latent_dim);
                for row in &v_b[head * self.value_dim..][..self.value_dim] {
                    let value = oracle::dot(&mean, row).value;
                    out.push(oracle::Sum { value, size: oracle::dot(&size, row).size });
                }
            }
        }
        out
    }

    /// The same with a key and a value for each head and token.
    fn expanded(
        &self,
        (queries, latents): (&[f32], &[f32]),
        [norm, k_b, v_b]: [&[Vec<f64>]; 3],
        token: usize,
    ) -> Vec<f64> {
        let entries = self.entries(latents, &norm[0], token + 1);
        let mut out = Vec::new();
        for (head, (nope, rope)) in self.queries(queries, token).into_iter().enumerate() {
            let query = [nope, rope].concat();
            let key = |entry: &Vec<f64>| {
                let (latent, rotated) = entry.split_at(self.latent_dim);
                let of_head = &k_b[head * self.latent_dim..][..self.latent_dim];
                let nope = (0..self.nope)
                    .map(|at| latent.iter().zip(of_head).map(|(x, row)| x * row[at]).sum::<f64>());
                nope.chain(rotated.iter().copied()).collect::<Vec<f64>>()
            };
            let weights = softmax(&query, &entries.iter().map(key).collect::<Vec<_>>());
            for row in &v_b[head * self.value_dim..][..self.value_dim] {
                let values =
                    entries.iter().map(|entry| oracle::dot(&entry[..self.latent_dim], row).value);
                out.push(values.zip(&weights).map(|(value, weight)| value * weight).sum());
            }
        }
        out
    }
}

fn softmax(query: &[f64], keys: &[Vec<f64>]) -> Vec<f64> {
    let scores: Vec<f64> = keys.iter().map(|key| oracle::dot(query, key).value).collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
    scores.into_iter().map(|score| (score - largest).exp() / total).collect()
}

/// The mean of entries' first elements, weighed by attention, and that of their magnitudes.
fn mean(query: &[f64], entries: &[Vec<f64>], elements: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut mean, mut size) = (vec![0.0; elements], vec![0.0; elements]);
    for (weight, entry) in softmax(query, entries).into_iter().zip(entries) {
        for ((mean, size), x) in mean.iter_mut().zip(&mut size).zip(entry) {
            *mean += weight * x;
            *size += weight * x.abs();
        }
    }
    (mean, size)
}

#[test]
fn in_double_precision_nothing_is_lost_where_nothing_is_expanded() {
    for (heads, latent_dim, seed) in [(5, 32, 1), (3, 70, 2), (1, 128, 3)] {
        let shape = Shape { heads, nope: 21, rope_dim: 10, latent_dim, value_dim: 9 };
        let mut random = Random(seed);
        let (tokens, token) = (9, 8);
        let queries = random.floats(tokens * shape.heads * shape.query_dim());
        let latents = random.floats(tokens * shape.entry());
        let mut weight = |rows: usize, cols: usize| -> Vec<Vec<f64>> {
            (0..rows).map(|_| oracle::wide(&random.floats(cols))).collect()
        };
        let norm = weight(1, shape.latent_dim);
        let k_b = weight(shape.heads * shape.latent_dim, shape.nope);
        let v_b = weight(shape.heads * shape.value_dim, shape.latent_dim);
        let (stored, weights) = ((&queries[..], &latents[..]), [&norm[..], &k_b, &v_b]);
        let expanded = shape.expanded(stored, weights, token);
        for (sum, want) in shape.oracle(stored, weights, &[token]).iter().zip(&expanded) {
            assert!((sum.value - want).abs() < 1e-12 * sum.size, "{sum:?} is not {want}");
        }
    }
}

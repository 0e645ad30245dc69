//! Latent attention of some heads of one token: they share keys, which are the values too.
//!
//! Softmax goes tile by tile, at absolute positions (`online_softmax.rs`). Lanes are elements.
//! Positions behind the token are not read.

use super::attention::HeadPlace;
use super::cache::KvElement;
use super::math;
use super::online_softmax::{OnlineSoftmax, TILE, online_softmax};
use super::simd::{Isa, IsaKernel, LANES};

/// Heads that attend together at most.
pub(super) const HEADS_MAX: usize = 8;

/// Some heads of one token.
pub(super) struct LatentAttention<'a, E> {
    /// `[heads][latent + rope]`.
    pub(super) queries: &'a [f32],
    /// `[block][token][latent + rope]`.
    pub(super) cache: &'a [E],
    pub(super) place: HeadPlace<'a>,
    /// Positions that the token sees.
    pub(super) seen: usize,
    pub(super) scale: f32,
    pub(super) latent_dim: usize,
    /// `[heads][latent]`.
    pub(super) out: &'a mut [f32],
}

impl<E: KvElement> IsaKernel for LatentAttention<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        let (width, latent_dim) = (self.place.shape.head_dim, self.latent_dim);
        let heads = self.queries.len() / width;
        let mut states = [OnlineSoftmax::EMPTY; HEADS_MAX];
        let mut scores = [[0.0; TILE]; HEADS_MAX];
        self.out.fill(0.0);
        for tile in 0..self.seen.div_ceil(TILE) {
            let seen = 0..self.seen.min((tile + 1) * TILE) - tile * TILE;
            for span in self.place.spans(tile, &seen) {
                let places = span.places.start..span.places.end.min(seen.end);
                let rows = &self.cache[span.at + span.first * width..][..places.len() * width];
                score_rows::<I, E>(rows, self.queries, width, places.start, &mut scores);
            }
            for (head, state) in states[..heads].iter_mut().enumerate() {
                let factor = online_softmax::<I>(&mut scores[head], &seen, self.scale, state);
                let out = &mut self.out[head * latent_dim..][..latent_dim];
                out.iter_mut().for_each(|out| *out *= factor);
            }
            for span in self.place.spans(tile, &seen) {
                let places = span.places.start..span.places.end.min(seen.end);
                let rows = &self.cache[span.at + span.first * width..][..places.len() * width];
                let outs = self.out.chunks_exact_mut(latent_dim).zip(&scores);
                for (out, scores) in outs {
                    add_rows::<I, E>(&scores[places.clone()], rows, width, out);
                }
            }
        }
        for (out, state) in self.out.chunks_exact_mut(latent_dim).zip(&states) {
            let factor = 1.0 / state.sum;
            out.iter_mut().for_each(|out| *out *= factor);
        }
    }
}

/// Scores of some positions for all heads, two positions by two heads at a time.
#[inline(always)]
fn score_rows<I: Isa, E: KvElement>(
    rows: &[E],
    queries: &[f32],
    width: usize,
    first: usize,
    scores: &mut [[f32; TILE]; HEADS_MAX],
) {
    let count = rows.len() / width;
    let row = |index: usize| &rows[index * width..][..width];
    let heads = queries.len() / width;
    let query = |head: usize| &queries[head * width..][..width];
    for head in (0..heads).step_by(2) {
        let other = (head + 1).min(heads - 1);
        let queries = [query(head), query(other)];
        for index in (0..count).step_by(2) {
            let next = (index + 1).min(count - 1);
            let dots = dots::<I, E>([row(index), row(next)], queries);
            // Where there is no second one, the first is written twice.
            for (head, dots) in [head, other].into_iter().zip(dots) {
                scores[head][first + index] = dots[0];
                scores[head][first + next] = dots[1];
            }
        }
    }
}

/// Products of two queries with two rows, `[query][row]`.
#[inline(always)]
fn dots<I: Isa, E: KvElement>(rows: [&[E]; 2], queries: [&[f32]; 2]) -> [[f32; 2]; 2] {
    let mut sums = [[I::splat(0.0); 2]; 2];
    let whole = queries[0].len() / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        let rows = rows.map(|row| E::decode::<I>(registers(row, at)));
        for (query, sums) in queries.iter().zip(&mut sums) {
            let query = I::load(registers(query, at));
            for (row, sum) in rows.iter().zip(sums) {
                *sum = I::fma(query, *row, *sum);
            }
        }
    }
    if whole < queries[0].len() {
        let rows = rows.map(|row| E::decode::<I>(&padded(&row[whole..], E::encode(0.0))));
        for (query, sums) in queries.iter().zip(&mut sums) {
            let query = I::load(&padded(&query[whole..], 0.0));
            for (row, sum) in rows.iter().zip(sums) {
                *sum = I::fma(query, *row, *sum);
            }
        }
    }
    sums.map(|sums| sums.map(|sum| math::sum(I::store(sum))))
}

/// `out += weights * rows`, of each row as many elements as `out` has; four registers at a time.
#[inline(always)]
fn add_rows<I: Isa, E: KvElement>(weights: &[f32], rows: &[E], width: usize, out: &mut [f32]) {
    let (whole, tail) = out.as_chunks_mut::<LANES>();
    let (fours, ones) = whole.as_chunks_mut::<4>();
    let mut at = 0;
    for out in fours {
        let mut sums = [0, 1, 2, 3].map(|n| I::load(&out[n]));
        for (weight, row) in weights.iter().zip(rows.chunks_exact(width)) {
            let weight = I::splat(*weight);
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = I::fma(weight, E::decode::<I>(registers(row, at + n * LANES)), *sum);
            }
        }
        *out = sums.map(I::store);
        at += 4 * LANES;
    }
    for out in ones {
        let mut sum = I::load(out);
        for (weight, row) in weights.iter().zip(rows.chunks_exact(width)) {
            sum = I::fma(I::splat(*weight), E::decode::<I>(registers(row, at)), sum);
        }
        *out = I::store(sum);
        at += LANES;
    }
    if !tail.is_empty() {
        let mut sum = I::load(&padded(tail, 0.0));
        for (weight, row) in weights.iter().zip(rows.chunks_exact(width)) {
            let row = E::decode::<I>(&padded(&row[at..][..tail.len()], E::encode(0.0)));
            sum = I::fma(I::splat(*weight), row, sum);
        }
        tail.copy_from_slice(&I::store(sum)[..tail.len()]);
    }
}

/// A register's worth of elements.
#[inline(always)]
fn registers<T>(from: &[T], at: usize) -> &[T; LANES] {
    &from[at..][..LANES].as_chunks().0[0]
}

/// The last elements, which do not fill a register, and zeros.
#[inline(always)]
fn padded<T: Copy>(from: &[T], zero: T) -> [T; LANES] {
    let mut lanes = [zero; LANES];
    lanes[..from.len()].copy_from_slice(from);
    lanes
}

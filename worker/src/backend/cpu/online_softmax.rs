//! Softmax tile by tile.
//!
//! Tiles lie at absolute positions, so a token's sums are the same whatever chunk it came in.

use std::ops::Range;

use super::math;
use super::simd::{Isa, LANES};

/// Positions of a tile.
pub(super) const TILE: usize = 64;

/// Running softmax of a head: largest score so far, and sum of exponentials relative to it.
#[derive(Clone, Copy)]
pub(super) struct OnlineSoftmax {
    pub(super) largest: f32,
    pub(super) sum: f32,
}

impl OnlineSoftmax {
    /// That of no scores.
    pub(super) const EMPTY: Self = Self { largest: f32::NEG_INFINITY, sum: 0.0 };
}

/// Turns scores into weights relative to the largest so far; returns by how much what was summed
/// before must shrink.
#[inline(always)]
pub(super) fn online_softmax<I: Isa>(
    scores: &mut [f32; TILE],
    seen: &Range<usize>,
    scale: f32,
    state: &mut OnlineSoftmax,
) -> f32 {
    // One pass for each step, and lanes innermost: so the compiler vectorises.
    for (place, score) in scores.iter_mut().enumerate() {
        let is_seen = place >= seen.start && place < seen.end;
        *score = if is_seen { *score * scale } else { f32::NEG_INFINITY };
    }
    let mut maxima = [state.largest; LANES];
    for scores in scores.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            maxima[lane] = math::max(maxima[lane], scores[lane]);
        }
    }
    let largest = maxima.into_iter().fold(state.largest, math::max);
    for (place, score) in scores.iter_mut().enumerate() {
        let is_seen = place >= seen.start && place < seen.end;
        let weight = math::exp::<I>(*score - largest);
        *score = if is_seen { weight } else { 0.0 };
    }
    let mut sums = [0.0; LANES];
    for weights in scores.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            sums[lane] += weights[lane];
        }
    }
    let factor = math::exp::<I>(state.largest - largest);
    state.sum = I::mul_add(state.sum, factor, math::sum(sums));
    state.largest = largest;
    factor
}

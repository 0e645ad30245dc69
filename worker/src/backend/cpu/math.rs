//! Elementary functions that LLVM can turn into vector code: no branches, no calls.
//!
//! Every one is a function of single numbers; kernels call them in loops over lanes.

use binfer_shard::spec::ActivationFn;

use super::simd::{Isa, LANES, Lanes};

/// Below this, `e^x` is given as that of this.
const EXP_MIN: f32 = -87.0;
/// Above this, `e^x` is given as that of this.
const EXP_MAX: f32 = 88.0;
/// Adding it rounds to an integer, which then stands in the low bits.
const ROUND: f32 = 12_582_912.0;

/// `e^x` to about two units in the last place within [`EXP_MIN`]`..`[`EXP_MAX`]; NaN stays NaN.
#[inline(always)]
pub(super) fn exp<I: Isa>(x: f32) -> f32 {
    // Not `clamp`: a NaN must pass.
    let x = if x < EXP_MIN { EXP_MIN } else { x };
    let x = if x > EXP_MAX { EXP_MAX } else { x };
    let shifted = I::mul_add(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two pieces, so that n * ln 2 is exact to far below the last place of the rest.
    let rest = I::mul_add(n, -0.693_359_4, x);
    let rest = I::mul_add(n, 2.121_944_4e-4, rest);
    let series = 1.987_569_1e-4;
    let series = I::mul_add(series, rest, 1.398_199_9e-3);
    let series = I::mul_add(series, rest, 8.333_452e-3);
    let series = I::mul_add(series, rest, 4.166_579_6e-2);
    let series = I::mul_add(series, rest, 1.666_666_5e-1);
    let series = I::mul_add(series, rest, 0.5);
    let series = I::mul_add(series, rest * rest, rest) + 1.0;
    // 2^n: the integer in the low bits of `shifted` becomes an exponent.
    series * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(super) fn silu<I: Isa>(x: f32) -> f32 {
    x / (1.0 + exp::<I>(-x))
}

/// The gate's side of [`ActivationFn::ClampedSwiglu`].
#[inline(always)]
pub(super) fn gate_clamped<I: Isa>(gate: f32, limit: f32) -> f32 {
    // Not `min`: a NaN must pass.
    let gate = if gate > limit { limit } else { gate };
    gate * sigmoid::<I>(ActivationFn::SWIGLU_ALPHA * gate)
}

/// `x` within `limit` of 0; NaN stays NaN.
#[inline(always)]
pub(super) fn clamp(x: f32, limit: f32) -> f32 {
    let x = if x > limit { limit } else { x };
    if x < -limit { -limit } else { x }
}

#[inline(always)]
pub(super) fn sigmoid<I: Isa>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<I>(-x))
}

/// Sum of lanes, pairwise, always in this order.
#[inline(always)]
pub(super) fn sum(mut lanes: Lanes) -> f32 {
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

/// The larger of two; of a number and a NaN, the number.
#[inline(always)]
pub(super) fn max(a: f32, b: f32) -> f32 {
    if a > b || b.is_nan() { a } else { b }
}

/// Sum of products, in the order of [`sum_of_squares`].
#[inline(always)]
pub(super) fn dot<I: Isa>(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (whole_a, rest_a) = a.as_chunks::<LANES>();
    let (whole_b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in whole_a.iter().zip(whole_b) {
        for lane in 0..LANES {
            lanes[lane] = I::mul_add(a[lane], b[lane], lanes[lane]);
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(rest_a.iter().zip(rest_b)) {
        *lane = I::mul_add(*a, *b, *lane);
    }
    sum(lanes)
}

/// Sum of squares, lane by lane and then across; the order does not depend on anything but length.
#[inline(always)]
pub(super) fn sum_of_squares<I: Isa>(x: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for chunk in whole {
        for lane in 0..LANES {
            lanes[lane] = I::mul_add(chunk[lane], chunk[lane], lanes[lane]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = I::mul_add(*x, *x, *lane);
    }
    sum(lanes)
}

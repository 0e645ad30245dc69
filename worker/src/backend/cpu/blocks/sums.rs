//! Multiply-adds of sixteen rows with one input of each of several tokens.
//!
//! Tokens share the unpacking of a weight. The order over inputs is that of the loop.

use super::super::inputs::GROUP;
use super::super::simd::Isa;

/// `sums + weights * inputs`, one input of each token.
#[inline(always)]
pub(super) fn accumulate<I: Isa, const T: usize>(
    mut sums: [I::Vector; T],
    weights: I::Vector,
    inputs: [f32; T],
) -> [I::Vector; T] {
    for token in 0..T {
        sums[token] = I::fma(weights, I::splat(inputs[token]), sums[token]);
    }
    sums
}

/// `sums + scale * products`.
#[inline(always)]
pub(super) fn add_scaled<I: Isa, const T: usize>(
    mut sums: [I::Vector; T],
    scale: I::Vector,
    products: [I::Vector; T],
) -> [I::Vector; T] {
    for token in 0..T {
        sums[token] = I::fma(scale, products[token], sums[token]);
    }
    sums
}

/// `a * b`, for products that are exact.
#[inline(always)]
pub(super) fn times<I: Isa>(a: I::Vector, b: I::Vector) -> I::Vector {
    I::fma(a, b, I::splat(0.0))
}

/// `products` with those of `N` times eight inputs added, from eight number `first` of the group
/// on, and weights that need no scale yet. `weights` gives those of one input: which eight of the
/// group, and which of the eight.
#[inline(always)]
pub(super) fn multiply<I: Isa, const T: usize, const N: usize>(
    mut products: [I::Vector; T],
    inputs: [&[f32; GROUP]; T],
    first: usize,
    weights: impl Fn(usize, usize) -> I::Vector,
) -> [I::Vector; T] {
    for eight in first..first + N {
        let inputs: [&[f32; 8]; T] = inputs.map(|inputs| &inputs.as_chunks().0[eight]);
        // Written out: left to itself, the compiler keeps a loop, and computes masks in it.
        macro_rules! one {
            ($place:literal) => {
                let weights = weights(eight, $place);
                products = accumulate::<I, T>(products, weights, inputs.map(|x| x[$place]));
            };
        }
        one!(0);
        one!(1);
        one!(2);
        one!(3);
        one!(4);
        one!(5);
        one!(6);
        one!(7);
    }
    products
}

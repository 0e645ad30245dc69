//! The innermost loops of products: a band of sixteen rows times up to eight tokens.
//!
//! Per output: multiply-adds over the 32 inputs of a block in order, then the block's scale, then
//! the next block. That order is the same for any number of tokens and threads, so a token's
//! result never depends on its company. A lane is a row; tokens share the unpacking.

use std::ops::Range;

use super::matrix::{BLOCK, BlockBF16, BlockF16, BlockF32, BlockQ41, BlockQ80, Blocks, Matrix};
use super::panel::{Inputs, Panel};
use super::simd::{Isa, Kernel, Lanes};

/// How far ahead of use weights are asked for: a page, so that its translation is asked for too.
const PREFETCH_BYTES: usize = 4096;
/// Up to so many tokens, weights arrive more slowly than they are used.
const FEW_TOKENS: usize = 2;

/// Products of some bands with some tokens.
pub(super) struct Cell<'a> {
    pub(super) matrix: &'a Matrix,
    pub(super) panel: &'a Panel,
    pub(super) bands: Range<usize>,
    pub(super) tokens: Range<usize>,
    /// `[bands][tokens]`.
    pub(super) out: &'a mut [Lanes],
}

impl Kernel for Cell<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        let blocks = self.matrix.blocks_per_band();
        let mut out = self.out.chunks_exact_mut(self.tokens.len());
        for part in self.matrix.parts() {
            let bands = part.bands.start.max(self.bands.start)..part.bands.end.min(self.bands.end);
            for (band, out) in bands.zip(&mut out) {
                let first = (band - part.bands.start) * blocks;
                let range = first..first + blocks;
                let (panel, tokens) = (self.panel, self.tokens.clone());
                match &part.blocks {
                    Blocks::F32(all) => band_times_tokens::<I, _>(&all[range], panel, tokens, out),
                    Blocks::F16(all) => band_times_tokens::<I, _>(&all[range], panel, tokens, out),
                    Blocks::BF16(all) => band_times_tokens::<I, _>(&all[range], panel, tokens, out),
                    Blocks::Q80(all) => band_times_tokens::<I, _>(&all[range], panel, tokens, out),
                    Blocks::Q41(all) => band_times_tokens::<I, _>(&all[range], panel, tokens, out),
                }
            }
        }
    }
}

#[inline(always)]
fn band_times_tokens<I: Isa, B: Block>(
    band: &[B],
    panel: &Panel,
    mut tokens: Range<usize>,
    out: &mut [Lanes],
) {
    let (first, last) = (tokens.start, tokens.end);
    while !tokens.is_empty() {
        let out = &mut out[tokens.start - first..];
        tokens.start += match last - tokens.start {
            1 => tile::<I, B, 1>(band, panel, tokens.start, out),
            2 | 3 => tile::<I, B, 2>(band, panel, tokens.start, out),
            4..=7 => tile::<I, B, 4>(band, panel, tokens.start, out),
            _ => tile::<I, B, 8>(band, panel, tokens.start, out),
        };
    }
}

/// The band times `T` tokens from `token` on; returns `T`.
#[inline(always)]
fn tile<I: Isa, B: Block, const T: usize>(
    band: &[B],
    panel: &Panel,
    token: usize,
    out: &mut [Lanes],
) -> usize {
    let inputs: [Inputs<'_>; T] = std::array::from_fn(|index| panel.inputs(token + index));
    let mut sums = [I::splat(0.0); T];
    for (index, block) in band.iter().enumerate() {
        if T <= FEW_TOKENS {
            for line in (0..size_of::<B>()).step_by(64) {
                I::prefetch(block, PREFETCH_BYTES + line);
            }
        }
        sums = block.add_to::<I, T>(&inputs, index, sums);
    }
    for (out, sum) in out[..T].iter_mut().zip(sums) {
        *out = I::store(sum);
    }
    T
}

/// A type of block.
trait Block {
    /// `sums` with the products of block `index` of the inputs added.
    fn add_to<I: Isa, const T: usize>(
        &self,
        inputs: &[Inputs<'_>; T],
        index: usize,
        sums: [I::Vector; T],
    ) -> [I::Vector; T];
}

/// `sums + weights * inputs`, one input of each token.
#[inline(always)]
fn accumulate<I: Isa, const T: usize>(
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
fn add_scaled<I: Isa, const T: usize>(
    mut sums: [I::Vector; T],
    scale: I::Vector,
    products: [I::Vector; T],
) -> [I::Vector; T] {
    for token in 0..T {
        sums[token] = I::fma(scale, products[token], sums[token]);
    }
    sums
}

/// Products of 32 inputs with weights that need no scale yet. `weights` gives those of one input:
/// which eight of the block, and which of the eight.
#[inline(always)]
fn multiply<I: Isa, const T: usize>(
    inputs: [&[f32; BLOCK]; T],
    weights: impl Fn(usize, usize) -> I::Vector,
) -> [I::Vector; T] {
    let mut products = [I::splat(0.0); T];
    for eight in 0..BLOCK / 8 {
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

impl Block for BlockF32 {
    #[inline(always)]
    fn add_to<I: Isa, const T: usize>(
        &self,
        inputs: &[Inputs<'_>; T],
        index: usize,
        sums: [I::Vector; T],
    ) -> [I::Vector; T] {
        let inputs = inputs.map(|inputs| &inputs.plain[index]);
        let products = multiply::<I, T>(inputs, |eight, place| I::load(&self.0[8 * eight + place]));
        add_scaled::<I, T>(sums, I::splat(1.0), products)
    }
}

impl Block for BlockF16 {
    #[inline(always)]
    fn add_to<I: Isa, const T: usize>(
        &self,
        inputs: &[Inputs<'_>; T],
        index: usize,
        sums: [I::Vector; T],
    ) -> [I::Vector; T] {
        let inputs = inputs.map(|inputs| &inputs.plain[index]);
        let products =
            multiply::<I, T>(inputs, |eight, place| I::halves(&self.0[8 * eight + place]));
        add_scaled::<I, T>(sums, I::splat(1.0), products)
    }
}

impl Block for BlockBF16 {
    #[inline(always)]
    fn add_to<I: Isa, const T: usize>(
        &self,
        inputs: &[Inputs<'_>; T],
        index: usize,
        sums: [I::Vector; T],
    ) -> [I::Vector; T] {
        let inputs = inputs.map(|inputs| &inputs.plain[index]);
        let products =
            multiply::<I, T>(inputs, |eight, place| I::bfloats(&self.0[8 * eight + place]));
        add_scaled::<I, T>(sums, I::splat(1.0), products)
    }
}

impl Block for BlockQ80 {
    #[inline(always)]
    fn add_to<I: Isa, const T: usize>(
        &self,
        inputs: &[Inputs<'_>; T],
        index: usize,
        sums: [I::Vector; T],
    ) -> [I::Vector; T] {
        let inputs = inputs.map(|inputs| &inputs.plain[index]);
        let products =
            multiply::<I, T>(inputs, |eight, place| I::bytes(&self.q[8 * eight + place]));
        add_scaled::<I, T>(sums, I::halves(&self.scale), products)
    }
}

impl Block for BlockQ41 {
    #[inline(always)]
    fn add_to<I: Isa, const T: usize>(
        &self,
        inputs: &[Inputs<'_>; T],
        index: usize,
        sums: [I::Vector; T],
    ) -> [I::Vector; T] {
        let scaled = inputs.map(|inputs| &inputs.scaled[index]);
        // A nibble where it stands is worth 2^(4 k) too much. The last one would look negative to
        // the conversion, and unsigned conversions are slow before AVX-512: it is moved.
        let products = multiply::<I, T>(scaled, |word, place| match place {
            7 => I::highest_nibbles(&self.q[word]),
            _ => I::masked(&self.q[word], 15 << (4 * place)),
        });
        let sums = add_scaled::<I, T>(sums, I::halves(&self.scale), products);
        let minimum = I::halves(&self.minimum);
        accumulate::<I, T>(sums, minimum, inputs.map(|inputs| inputs.sums[index]))
    }
}

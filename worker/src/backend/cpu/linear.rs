//! The innermost loops of products: a band of sixteen rows times up to eight tokens.
//!
//! Per output: multiply-adds over the 32 inputs of a block in order, then the block's scale, then
//! the next block. That order is the same for any number of tokens and threads, so a token's
//! result never depends on its company. LLVM keeps a lane a row; tokens share the unpacking.

use std::ops::Range;

use super::matrix::{BLOCK, BlockF16, BlockF32, BlockQ41, BlockQ80, Blocks, Matrix};
use super::panel::{Inputs, Panel};
use super::simd::{Isa, Kernel, LANES, Lanes};

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
    let mut sums = [[0.0; LANES]; T];
    for (index, block) in band.iter().enumerate() {
        block.add_to::<I, T>(&inputs, index, &mut sums);
    }
    out[..T].copy_from_slice(&sums);
    T
}

/// A type of block.
trait Block {
    /// Adds the products of block `index` of the inputs.
    fn add_to<I: Isa, const T: usize>(
        &self,
        inputs: &[Inputs<'_>; T],
        index: usize,
        sums: &mut [Lanes; T],
    );
}

/// `sums += weights * input`, one input of each token.
#[inline(always)]
fn accumulate<I: Isa, const T: usize>(sums: &mut [Lanes; T], weights: &Lanes, x: [f32; T]) {
    for token in 0..T {
        for lane in 0..LANES {
            sums[token][lane] = I::mul_add(weights[lane], x[token], sums[token][lane]);
        }
    }
}

/// `sums += scale * products`, lane by lane.
#[inline(always)]
fn add_scaled<I: Isa, const T: usize>(sums: &mut [Lanes; T], scale: &Lanes, products: &[Lanes; T]) {
    for token in 0..T {
        for lane in 0..LANES {
            sums[token][lane] = I::mul_add(scale[lane], products[token][lane], sums[token][lane]);
        }
    }
}

impl Block for BlockF32 {
    #[inline(always)]
    fn add_to<I: Isa, const T: usize>(
        &self,
        inputs: &[Inputs<'_>; T],
        index: usize,
        sums: &mut [Lanes; T],
    ) {
        let x = inputs.map(|inputs| &inputs.plain[index]);
        let mut products = [[0.0; LANES]; T];
        for k in 0..BLOCK {
            accumulate::<I, T>(&mut products, &self.0[k], x.map(|x| x[k]));
        }
        add_scaled::<I, T>(sums, &[1.0; LANES], &products);
    }
}

impl Block for BlockF16 {
    #[inline(always)]
    fn add_to<I: Isa, const T: usize>(
        &self,
        inputs: &[Inputs<'_>; T],
        index: usize,
        sums: &mut [Lanes; T],
    ) {
        let x = inputs.map(|inputs| &inputs.plain[index]);
        let mut products = [[0.0; LANES]; T];
        for k in 0..BLOCK {
            accumulate::<I, T>(&mut products, &I::halves(&self.0[k]), x.map(|x| x[k]));
        }
        add_scaled::<I, T>(sums, &[1.0; LANES], &products);
    }
}

impl Block for BlockQ80 {
    #[inline(always)]
    fn add_to<I: Isa, const T: usize>(
        &self,
        inputs: &[Inputs<'_>; T],
        index: usize,
        sums: &mut [Lanes; T],
    ) {
        let x = inputs.map(|inputs| &inputs.plain[index]);
        let mut products = [[0.0; LANES]; T];
        for k in 0..BLOCK {
            accumulate::<I, T>(&mut products, &self.q[k].map(f32::from), x.map(|x| x[k]));
        }
        add_scaled::<I, T>(sums, &I::halves(&self.scale), &products);
    }
}

impl Block for BlockQ41 {
    #[inline(always)]
    fn add_to<I: Isa, const T: usize>(
        &self,
        inputs: &[Inputs<'_>; T],
        index: usize,
        sums: &mut [Lanes; T],
    ) {
        let x = inputs.map(|inputs| &inputs.scaled[index]);
        let mut products = [[0.0; LANES]; T];
        for (word, lanes) in self.q.iter().enumerate() {
            for k in 0..8 {
                let weights = nibbles(lanes, k);
                accumulate::<I, T>(&mut products, &weights, x.map(|x| x[8 * word + k]));
            }
        }
        add_scaled::<I, T>(sums, &I::halves(&self.scale), &products);
        let minimum = I::halves(&self.minimum);
        accumulate::<I, T>(sums, &minimum, inputs.map(|inputs| inputs.sums[index]));
    }
}

/// Nibble `k` of each word, times `2^(4 k)`; the last one as it is, since there it would look
/// negative to the conversion, and unsigned conversions are slow before AVX-512.
#[inline(always)]
fn nibbles(words: &[u32; LANES], k: usize) -> Lanes {
    let mut weights = [0.0; LANES];
    for lane in 0..LANES {
        let word = words[lane];
        let nibble = if k == 7 { word >> 28 } else { word & 15 << (4 * k) };
        weights[lane] = nibble.cast_signed() as f32;
    }
    weights
}

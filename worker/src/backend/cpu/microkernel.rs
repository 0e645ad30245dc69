//! The gemm's microkernel: a band of sixteen rows times up to eight tokens.
//!
//! Per output: multiply-adds over the 32 inputs of a group in order, then the group's scale, then
//! the next group. That order is the same for any number of tokens and threads, so a token's
//! result never depends on its company. A lane is a row; tokens share the unpacking (`blocks/`).

use std::ops::Range;

use super::blocks::{WeightBlock, WeightBlocks, with_blocks};
use super::inputs::Inputs;
use super::matrix::PackedMatrix;
use super::panel::Panel;
use super::simd::{Isa, IsaKernel, Lanes};

/// How far ahead of use weights are asked for: a page, so that its translation is asked for too.
const PREFETCH_BYTES: usize = 4096;
/// Up to so many tokens, weights arrive more slowly than they are used.
const FEW_TOKENS: usize = 2;

/// A tile of the gemm's output: some bands times some tokens.
pub(super) struct GemmTile<'a> {
    pub(super) matrix: &'a PackedMatrix,
    pub(super) panel: &'a Panel,
    pub(super) bands: Range<usize>,
    pub(super) tokens: Range<usize>,
    /// `[bands][tokens]`.
    pub(super) out: &'a mut [Lanes],
}

impl IsaKernel for GemmTile<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        let groups = self.matrix.groups();
        let mut out = self.out.chunks_exact_mut(self.tokens.len());
        for part in self.matrix.parts() {
            let bands = part.bands.start.max(self.bands.start)..part.bands.end.min(self.bands.end);
            for (band, out) in bands.zip(&mut out) {
                let (panel, tokens) = (self.panel, self.tokens.clone());
                with_blocks!(&part.blocks, all => {
                    let band = band_of(all, band - part.bands.start, groups);
                    band_times_tokens::<I, _>(band, panel, tokens, out);
                });
            }
        }
    }
}

/// The blocks of one of a part's bands.
#[inline(always)]
fn band_of<B: WeightBlock>(all: &[B], band: usize, groups: usize) -> &[B] {
    let blocks = groups / B::GROUPS;
    &all[band * blocks..][..blocks]
}

#[inline(always)]
fn band_times_tokens<I: Isa, B: WeightBlock>(
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
fn tile<I: Isa, B: WeightBlock, const T: usize>(
    band: &[B],
    panel: &Panel,
    token: usize,
    out: &mut [Lanes],
) -> usize {
    let inputs: [Inputs<'_>; T] = std::array::from_fn(|index| panel.inputs(token + index));
    let mut sums = [I::splat(0.0); T];
    // What a group takes of a block, more or less: the whole block is asked for, piece by piece.
    let piece = size_of::<B>() / B::GROUPS;
    for (block, first) in band.iter().zip((0..).step_by(B::GROUPS)) {
        for group in 0..B::GROUPS {
            if T <= FEW_TOKENS {
                for line in (group * piece..(group + 1) * piece).step_by(64) {
                    I::prefetch(block, PREFETCH_BYTES + line);
                }
            }
            sums = block.add_to::<I, T>(group, &inputs, first + group, sums);
        }
    }
    for (out, sum) in out[..T].iter_mut().zip(sums) {
        *out = I::store(sum);
    }
    T
}

//! The gemm's microkernel: a band of sixteen weight rows times up to eight rows of the panel.
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

/// A tile of the gemm's output: some bands times some rows of the panel.
pub(super) struct GemmTile<'a> {
    pub(super) matrix: &'a PackedMatrix,
    pub(super) panel: &'a Panel,
    /// Parts of the matrix that are multiplied.
    pub(super) parts: Range<usize>,
    /// Bands of those parts, counted from their first.
    pub(super) bands: Range<usize>,
    /// Rows of the panel.
    pub(super) rows: &'a [usize],
    /// `[bands][rows]`.
    pub(super) out: &'a mut [Lanes],
}

impl IsaKernel for GemmTile<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        let groups = self.matrix.groups();
        let first = self.matrix.bands_of(&self.parts).start;
        let bands = first + self.bands.start..first + self.bands.end;
        let mut out = self.out.chunks_exact_mut(self.rows.len());
        for part in &self.matrix.parts()[self.parts] {
            let bands = part.bands.start.max(bands.start)..part.bands.end.min(bands.end);
            for (band, out) in bands.zip(&mut out) {
                let (panel, rows) = (self.panel, self.rows);
                with_blocks!(&part.blocks, all => {
                    let band = band_of(all, band - part.bands.start, groups);
                    band_times_rows::<I, _>(band, panel, rows, out);
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
fn band_times_rows<I: Isa, B: WeightBlock>(
    band: &[B],
    panel: &Panel,
    mut rows: &[usize],
    mut out: &mut [Lanes],
) {
    while !rows.is_empty() {
        let done = match rows.len() {
            1 => tile::<I, B, 1>(band, panel, rows, out),
            2 | 3 => tile::<I, B, 2>(band, panel, rows, out),
            4..=7 => tile::<I, B, 4>(band, panel, rows, out),
            _ => tile::<I, B, 8>(band, panel, rows, out),
        };
        rows = &rows[done..];
        out = &mut out[done..];
    }
}

/// The band times the first `T` of `rows`; returns `T`.
#[inline(always)]
fn tile<I: Isa, B: WeightBlock, const T: usize>(
    band: &[B],
    panel: &Panel,
    rows: &[usize],
    out: &mut [Lanes],
) -> usize {
    let inputs: [Inputs<'_>; T] = std::array::from_fn(|index| panel.inputs(rows[index]));
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

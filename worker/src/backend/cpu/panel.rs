//! A gemm's inputs, prepared once for all rows of the weight.
//!
//! Per token: the inputs, normed where asked, in groups of 32 with zeros where the weight has
//! columns without an activation; the same inputs scaled for nibbles; and each half group's sum.
//! A nibble is used where it stands in its word, worth `2^(4 k)` too much, so its input is divided
//! by that beforehand: both are exact, and save a shift per weight.

use std::ops::Range;

use super::inputs::{GROUP, Inputs};
use super::math;
use super::matrix::PackedMatrix;
use super::simd::{Isa, IsaKernel, LANES, Level};
use super::threads::Team;

/// Numbers of a panel at most, where rows are many: 16 MiB.
const FLOATS_MAX: usize = 1 << 22;

/// Prepared inputs of several tokens.
#[derive(Default)]
pub(super) struct Panel {
    data: Vec<f32>,
    groups: usize,
}

/// RMSNorm before a gemm.
#[derive(Clone, Copy)]
pub(super) struct PanelNorm<'a> {
    pub(super) scale: &'a [f32],
    pub(super) eps: f32,
}

impl PanelNorm<'_> {
    /// `x`, normed.
    #[inline(always)]
    pub(super) fn apply<I: Isa>(self, x: &mut [f32]) {
        let factor = 1.0 / (math::sum_of_squares::<I>(x) / x.len() as f32 + self.eps).sqrt();
        for (x, scale) in x.iter_mut().zip(self.scale) {
            *x = *scale * (*x * factor);
        }
    }
}

/// Where a panel comes from.
pub(super) struct PanelSource<'a, R> {
    /// Tokens of the panel.
    pub(super) tokens: usize,
    /// The token's inputs.
    pub(super) row: R,
    pub(super) norm: Option<PanelNorm<'a>>,
}

impl Panel {
    /// Room for so many tokens of matrices with so many groups of inputs.
    pub(super) fn floats(tokens: usize, groups: usize) -> usize {
        tokens * stride(groups)
    }

    /// Rows with so many groups of inputs that a panel of a good size has room for; 0 if one is too
    /// large already.
    pub(super) fn rows_max(groups: usize) -> usize {
        FLOATS_MAX / stride(groups).max(1)
    }

    /// Takes memory for so many numbers.
    pub(super) fn reserve(&mut self, floats: usize) {
        self.data.resize(floats.max(self.data.len()), 0.0);
    }

    /// Makes it the inputs of `matrix` for the tokens of `source`.
    pub(super) fn fill<'a, R>(
        &mut self,
        team: &Team,
        level: Level,
        matrix: &PackedMatrix,
        source: PanelSource<'a, R>,
    ) where
        R: Fn(usize) -> &'a [f32] + Sync + Send,
    {
        self.groups = matrix.groups();
        let (stride, inputs) = (stride(self.groups), matrix.inputs());
        let data = &mut self.data[..source.tokens * stride];
        team.pieces(data.len(), data, stride, |token, to| {
            let (x, norm, inputs) = ((source.row)(token), source.norm, inputs.clone());
            level.run(Prepare { x, norm, inputs, to });
        });
    }

    /// One token's inputs.
    #[inline(always)]
    pub(super) fn inputs(&self, token: usize) -> Inputs<'_> {
        let stride = stride(self.groups);
        let row = &self.data[token * stride..][..stride];
        let (plain, rest) = row.split_at(self.groups * GROUP);
        let (scaled, sums) = rest.split_at(self.groups * GROUP);
        let (plain, scaled) = (plain.as_chunks().0, scaled.as_chunks().0);
        Inputs { plain, scaled, sums: sums.as_chunks().0 }
    }

    /// One token's inputs in a row, as the weight's columns see them.
    pub(super) fn plain(&self, token: usize) -> &[f32] {
        self.inputs(token).plain.as_flattened()
    }
}

fn stride(groups: usize) -> usize {
    groups * (2 * GROUP + 2)
}

/// Prepares one token.
struct Prepare<'a> {
    x: &'a [f32],
    norm: Option<PanelNorm<'a>>,
    inputs: Range<usize>,
    to: &'a mut [f32],
}

impl IsaKernel for Prepare<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        let groups = self.to.len() / (2 * GROUP + 2);
        let (plain, rest) = self.to.split_at_mut(groups * GROUP);
        let (scaled, sums) = rest.split_at_mut(groups * GROUP);
        plain[..self.inputs.start].fill(0.0);
        plain[self.inputs.end..].fill(0.0);
        let fed = &mut plain[self.inputs];
        fed.copy_from_slice(self.x);
        if let Some(norm) = self.norm {
            norm.apply::<I>(fed);
        }
        let plain = plain.as_chunks::<GROUP>().0;
        let scaled = scaled.as_chunks_mut::<GROUP>().0.iter_mut();
        let sums = sums.as_chunks_mut::<2>().0.iter_mut();
        for ((plain, scaled), sums) in plain.iter().zip(scaled).zip(sums) {
            for k in 0..GROUP {
                scaled[k] = plain[k] * NIBBLE_SCALES[k % 8];
            }
            *sums =
                [0, LANES].map(|first| math::sum(std::array::from_fn(|lane| plain[first + lane])));
        }
    }
}

/// The factor of an input by its place among eight.
const NIBBLE_SCALES: [f32; 8] = {
    let mut scales = [1.0; 8];
    let mut k = 1;
    while k < 7 {
        scales[k] = scales[k - 1] / 16.0;
        k += 1;
    }
    scales
};

//! A whole gemm, or several at once: tiles of bands and rows over the threads, then rows of output.
//!
//! Threads write bands side by side into scratch memory, since a band is a column of the output;
//! a second pass turns lanes into rows and applies the epilogue on the way. How tiles are
//! cut follows from the number of threads, and no result depends on it.

use std::ops::Range;

use binfer_shard::spec::ActivationFn;

use super::gemm_rows::{GemmRows, RowLanes, TileGrid};
use super::math;
use super::matrix::PackedMatrix;
use super::microkernel::GemmTile;
use super::panel::Panel;
use super::simd::{Isa, IsaKernel, LANES, Lanes, Level};
use super::threads::{Team, UnevenPieces};

/// Bands of a tile at most.
const TILE_BANDS_MAX: usize = 64;
/// Rows of a gemm at once, where the weight is not so tall that scratch would outgrow caches.
const PASS_ROWS_MAX: usize = 128;
/// Registers of scratch that a pass should need at most.
const PASS_LANES: usize = 1 << 16;

/// What is done with a row of the gemm's result.
#[derive(Clone, Copy)]
pub(super) enum CpuEpilogue {
    /// The result is the output.
    Store,
    /// The result's first half is the gate of its second half.
    Glu(ActivationFn),
    /// The result is added to the output.
    Add,
}

impl CpuEpilogue {
    /// That of a gemm with or without a gated activation.
    pub(super) fn of(glu: Option<ActivationFn>) -> Self {
        glu.map_or(Self::Store, Self::Glu)
    }
}

/// Rows that one pass takes of one of `matrix`'s problems.
pub(super) fn pass_rows(matrix: &PackedMatrix) -> usize {
    (PASS_LANES / matrix.problem_bands().max(1)).clamp(8, PASS_ROWS_MAX)
}

/// Rows that one pass takes of all of `matrix`.
pub(super) fn pass_tokens(matrix: &PackedMatrix) -> usize {
    (PASS_LANES / matrix.bands().max(1)).clamp(8, PASS_ROWS_MAX)
}

/// What gemms work in.
#[derive(Default)]
pub(super) struct GemmWorkspace {
    pub(super) panel: Panel,
    pub(super) rows: GemmRows,
    pub(super) scratch: Vec<Lanes>,
}

impl GemmWorkspace {
    /// The gemm of `matrix` with what is in the panel, for the rows that were chosen.
    pub(super) fn gemm<'a>(
        &'a mut self,
        matrix: &'a PackedMatrix,
        bias: Option<&'a [f32]>,
        epilogue: CpuEpilogue,
    ) -> CpuGemm<'a> {
        let Self { panel, rows, scratch } = self;
        CpuGemm { matrix, bias, panel, rows, scratch, epilogue }
    }
}

/// `matrix` times rows of `panel`, stored or added into rows of the output.
pub(super) struct CpuGemm<'a> {
    pub(super) matrix: &'a PackedMatrix,
    /// One number for each row of the matrix, added before the epilogue.
    pub(super) bias: Option<&'a [f32]>,
    pub(super) panel: &'a Panel,
    pub(super) rows: &'a GemmRows,
    /// At least as many as the problems' bands times rows.
    pub(super) scratch: &'a mut [Lanes],
    pub(super) epilogue: CpuEpilogue,
}

impl CpuGemm<'_> {
    /// Runs it into the rows of `out`, each `cols` wide. Columns behind the result stay as they
    /// are.
    pub(super) fn run(self, team: &Team, level: Level, out: &mut [f32], cols: usize) {
        let CpuGemm { matrix, bias, panel, rows, scratch, epilogue } = self;
        let Some(block) = rows.blocks().first() else { return };
        let bands = matrix.bands_of(&block.parts).len();
        let multiply_adds = bands * LANES * rows.count() * matrix.cols();
        let grid = TileGrid::new(rows, bands, tile_bands(rows, bands, team.count()));
        let (count, start) = (grid.tiles(), |tile| grid.start(tile));
        let scratch = &mut scratch[..bands * rows.count()];
        team.uneven_pieces(
            multiply_adds,
            UnevenPieces { data: &mut *scratch, count, start },
            |tile, out| {
                let (block, bands) = grid.tile(tile);
                let (parts, rows) = (block.parts.clone(), rows.panel_rows(block));
                level.run(GemmTile { matrix, panel, parts, bands, rows, out });
            },
        );
        let scratch = &*scratch;
        team.pieces(out.len(), out, cols, |out_row, out| {
            let (block, lanes) = rows.row(out_row, bands, scratch);
            let parts = block.parts.clone();
            level.run(EpilogueRow { matrix, parts, bias, lanes, epilogue, out });
        });
    }
}

/// Bands of a tile: two tiles a thread, so that one that was late elsewhere leaves its second to
/// the others.
fn tile_bands(rows: &GemmRows, bands: usize, threads: usize) -> usize {
    let all = bands * rows.blocks().len();
    all.div_ceil(2 * threads).clamp(1, TILE_BANDS_MAX.min(bands.max(1)))
}

/// One row out of scratch.
struct EpilogueRow<'a> {
    matrix: &'a PackedMatrix,
    /// Parts of the row's problem.
    parts: Range<usize>,
    bias: Option<&'a [f32]>,
    lanes: RowLanes<'a>,
    epilogue: CpuEpilogue,
    out: &'a mut [f32],
}

impl IsaKernel for EpilogueRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        let cols = self.out.len();
        let bands = self.matrix.bands_of(&self.parts);
        let parts = &self.matrix.parts()[self.parts];
        let first_row = parts.first().map_or(0, |part| part.rows.start);
        for part in parts {
            for band in part.bands.clone() {
                let within = part.rows.start + (band - part.bands.start) * LANES;
                let count = LANES.min(part.rows.end - within);
                let mut lanes = self.lanes.of(band - bands.start);
                if let Some(bias) = self.bias {
                    put::<I>(&bias[within..][..count], &mut lanes[..count], CpuEpilogue::Add);
                }
                let row = within - first_row;
                // A band may lie on both sides of the border between gate and up.
                let before = count.min(cols.saturating_sub(row));
                if before > 0 {
                    put::<I>(&lanes[..before], &mut self.out[row..][..before], self.epilogue);
                }
                if before < count {
                    let gated = &mut self.out[row + before - cols..][..count - before];
                    gate(&lanes[before..count], gated, self.epilogue);
                }
            }
        }
    }
}

#[inline(always)]
fn put<I: Isa>(lanes: &[f32], out: &mut [f32], epilogue: CpuEpilogue) {
    match epilogue {
        CpuEpilogue::Store => out.copy_from_slice(lanes),
        CpuEpilogue::Add => out.iter_mut().zip(lanes).for_each(|(out, x)| *out += x),
        CpuEpilogue::Glu(ActivationFn::Silu) => {
            out.iter_mut().zip(lanes).for_each(|(out, x)| *out = math::silu::<I>(*x));
        }
        CpuEpilogue::Glu(ActivationFn::ClampedSwiglu { limit }) => {
            for (out, x) in out.iter_mut().zip(lanes) {
                *out = math::gate_clamped::<I>(*x, limit);
            }
        }
    }
}

#[inline(always)]
fn gate(up: &[f32], out: &mut [f32], epilogue: CpuEpilogue) {
    if let CpuEpilogue::Glu(ActivationFn::ClampedSwiglu { limit }) = epilogue {
        let pairs = out.iter_mut().zip(up);
        return pairs.for_each(|(out, up)| *out *= math::clamp(*up, limit) + 1.0);
    }
    out.iter_mut().zip(up).for_each(|(out, up)| *out *= up);
}

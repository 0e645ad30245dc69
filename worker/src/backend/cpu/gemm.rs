//! A whole gemm: tiles of bands and tokens over the threads, then rows of output.
//!
//! Threads write bands side by side into scratch memory, since a band is a column of the output;
//! a second pass turns lanes into rows and applies the epilogue on the way. How tiles are
//! cut follows from the number of threads, and no result depends on it.

use super::math;
use super::matrix::PackedMatrix;
use super::microkernel::GemmTile;
use super::panel::Panel;
use super::simd::{Isa, IsaKernel, LANES, Lanes, Level};
use super::threads::Team;

/// Tokens of a cell: enough to use a band well while it is in the nearest cache.
const TILE_TOKENS: usize = 32;
/// Bands of a cell at most.
const TILE_BANDS_MAX: usize = 64;
/// Tokens of a gemm at once, where the weight is not so tall that scratch would outgrow caches.
const PASS_TOKENS_MAX: usize = 128;
/// Registers of scratch that a pass should need at most.
const PASS_LANES: usize = 1 << 16;

/// What is done with a row of the gemm's result.
#[derive(Clone, Copy)]
pub(super) enum CpuEpilogue {
    /// The result is the output.
    Store,
    /// The result's first half is the gate of its second half: `silu(gate) * up`.
    SiluGate,
    /// The result is added to the output.
    Add,
}

/// Tokens that one pass takes of `matrix`.
pub(super) fn pass_tokens(matrix: &PackedMatrix) -> usize {
    (PASS_LANES / matrix.bands().max(1)).clamp(8, PASS_TOKENS_MAX)
}

/// `matrix` times `panel`, stored or added into rows of the output.
pub(super) struct CpuGemm<'a> {
    pub(super) matrix: &'a PackedMatrix,
    /// Added before the epilogue.
    pub(super) bias: Option<&'a [f32]>,
    pub(super) panel: &'a Panel,
    /// At least as many as [`scratch_lanes`] says.
    pub(super) scratch: &'a mut [Lanes],
    pub(super) epilogue: CpuEpilogue,
}

/// Registers of scratch that a gemm with `matrix` needs.
pub(super) fn scratch_lanes(matrix: &PackedMatrix, threads: usize) -> usize {
    let tokens = pass_tokens(matrix);
    let grid = Grid::new(matrix.bands(), tokens, threads);
    tokens.div_ceil(TILE_TOKENS) * grid.tiles_across * grid.tile_lanes
}

impl CpuGemm<'_> {
    /// Runs it into the rows of `out`, each `cols` wide, one per token of the panel.
    pub(super) fn run(self, team: &Team, level: Level, out: &mut [f32], cols: usize) {
        let CpuGemm { matrix, bias, panel, scratch, epilogue } = self;
        let (bands, tokens) = (matrix.bands(), panel.tokens());
        let grid = Grid::new(bands, tokens, team.count());
        let multiply_adds = bands * LANES * tokens * matrix.cols();
        let lanes = grid.tiles_across * grid.tile_lanes * tokens.div_ceil(TILE_TOKENS);
        let scratch = &mut scratch[..lanes];
        team.pieces(multiply_adds, scratch, grid.tile_lanes, |tile, out| {
            let first_token = tile / grid.tiles_across * TILE_TOKENS;
            let first_band = tile % grid.tiles_across * grid.tile_bands;
            let tokens = first_token..tokens.min(first_token + TILE_TOKENS);
            let bands = first_band..bands.min(first_band + grid.tile_bands);
            let out = &mut out[..bands.len() * tokens.len()];
            level.run(GemmTile { matrix, panel, bands, tokens, out });
        });
        let scratch = &*scratch;
        team.pieces(out.len(), out, cols, |token, out| {
            level.run(EpilogueRow { matrix, bias, scratch, grid, tokens, token, epilogue, out });
        });
    }
}

/// How bands and tokens are cut into tiles. Tiles lie in scratch one after the other.
#[derive(Clone, Copy)]
struct Grid {
    tile_bands: usize,
    /// Cells that share their tokens.
    tiles_across: usize,
    tile_lanes: usize,
}

impl Grid {
    fn new(bands: usize, tokens: usize, threads: usize) -> Self {
        // Two cells a thread: one that was late elsewhere leaves its second to the others.
        let tile_bands = bands.div_ceil(2 * threads).clamp(1, TILE_BANDS_MAX);
        let tiles_across = bands.div_ceil(tile_bands);
        Self { tile_bands, tiles_across, tile_lanes: tile_bands * tokens.min(TILE_TOKENS) }
    }
}

/// One token's row out of scratch.
struct EpilogueRow<'a> {
    matrix: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    scratch: &'a [Lanes],
    grid: Grid,
    /// Tokens of the panel.
    tokens: usize,
    token: usize,
    epilogue: CpuEpilogue,
    out: &'a mut [f32],
}

impl EpilogueRow<'_> {
    #[inline(always)]
    fn lanes(&self, band: usize) -> Lanes {
        let (block, token) = (self.token / TILE_TOKENS, self.token % TILE_TOKENS);
        let block_tokens = TILE_TOKENS.min(self.tokens - block * TILE_TOKENS);
        let tile = block * self.grid.tiles_across + band / self.grid.tile_bands;
        let within = band % self.grid.tile_bands * block_tokens + token;
        self.scratch[tile * self.grid.tile_lanes + within]
    }
}

impl IsaKernel for EpilogueRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        let cols = self.out.len();
        for part in self.matrix.parts() {
            for band in part.bands.clone() {
                let row = part.rows.start + (band - part.bands.start) * LANES;
                let count = LANES.min(part.rows.end - row);
                let mut lanes = self.lanes(band);
                if let Some(bias) = self.bias {
                    put::<I>(&bias[row..][..count], &mut lanes[..count], CpuEpilogue::Add);
                }
                // A band may lie on both sides of the border between gate and up.
                let before = count.min(cols.saturating_sub(row));
                if before > 0 {
                    put::<I>(&lanes[..before], &mut self.out[row..][..before], self.epilogue);
                }
                if before < count {
                    let gated = &mut self.out[row + before - cols..][..count - before];
                    gate::<I>(&lanes[before..count], gated);
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
        CpuEpilogue::SiluGate => {
            out.iter_mut().zip(lanes).for_each(|(out, x)| *out = math::silu::<I>(*x));
        }
    }
}

#[inline(always)]
fn gate<I: Isa>(up: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(up).for_each(|(out, up)| *out *= up);
}

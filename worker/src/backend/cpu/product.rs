//! A whole product: cells of bands and tokens over the threads, then rows of output.
//!
//! Threads write bands side by side into scratch memory, since a band is a column of the output;
//! a second pass turns lanes into rows and does what follows the product on the way. How cells are
//! cut follows from the number of threads, and no result depends on it.

use super::linear::Cell;
use super::math;
use super::matrix::Matrix;
use super::panel::Panel;
use super::simd::{Isa, Kernel, LANES, Lanes, Level};
use super::threads::Team;

/// Tokens of a cell: enough to use a band well while it is in the nearest cache.
const CELL_TOKENS: usize = 32;
/// Bands of a cell at most.
const CELL_BANDS_MAX: usize = 64;
/// Tokens of a product at once, where the weight is not so tall that scratch would outgrow caches.
const PASS_TOKENS_MAX: usize = 128;
/// Registers of scratch that a pass should need at most.
const PASS_LANES: usize = 1 << 16;

/// What becomes of a product's row.
#[derive(Clone, Copy)]
pub(super) enum Then {
    /// It is the output.
    Store,
    /// Its first half is the gate of its second: `silu(gate) * up`.
    SiluGate,
    /// It is added to the output.
    Add,
}

/// Tokens that one pass takes of `matrix`.
pub(super) fn pass_tokens(matrix: &Matrix) -> usize {
    (PASS_LANES / matrix.bands().max(1)).clamp(8, PASS_TOKENS_MAX)
}

/// `rows` of `cols` columns become, or take up, the products of `matrix` with `panel`.
pub(super) struct Product<'a> {
    pub(super) matrix: &'a Matrix,
    /// Added before anything else becomes of the product.
    pub(super) bias: Option<&'a [f32]>,
    pub(super) panel: &'a Panel,
    /// At least as many as [`scratch_lanes`] says.
    pub(super) scratch: &'a mut [Lanes],
    pub(super) then: Then,
}

/// Scratch that products of `matrix` need.
pub(super) fn scratch_lanes(matrix: &Matrix, threads: usize) -> usize {
    let tokens = pass_tokens(matrix);
    let grid = Grid::new(matrix.bands(), tokens, threads);
    tokens.div_ceil(CELL_TOKENS) * grid.cells_across * grid.cell_lanes
}

impl Product<'_> {
    /// Runs it into the rows of `out`, each `cols` wide, one per token of the panel.
    pub(super) fn run(self, team: &Team, level: Level, out: &mut [f32], cols: usize) {
        let Product { matrix, bias, panel, scratch, then } = self;
        let (bands, tokens) = (matrix.bands(), panel.tokens());
        let grid = Grid::new(bands, tokens, team.count());
        let multiply_adds = bands * LANES * tokens * matrix.cols();
        let lanes = grid.cells_across * grid.cell_lanes * tokens.div_ceil(CELL_TOKENS);
        let scratch = &mut scratch[..lanes];
        team.pieces(multiply_adds, scratch, grid.cell_lanes, |cell, out| {
            let first_token = cell / grid.cells_across * CELL_TOKENS;
            let first_band = cell % grid.cells_across * grid.cell_bands;
            let tokens = first_token..tokens.min(first_token + CELL_TOKENS);
            let bands = first_band..bands.min(first_band + grid.cell_bands);
            let out = &mut out[..bands.len() * tokens.len()];
            level.run(Cell { matrix, panel, bands, tokens, out });
        });
        let scratch = &*scratch;
        team.pieces(out.len(), out, cols, |token, out| {
            level.run(Finish { matrix, bias, scratch, grid, tokens, token, then, out });
        });
    }
}

/// How bands and tokens are cut into cells; cells lie in scratch one after the other.
#[derive(Clone, Copy)]
struct Grid {
    cell_bands: usize,
    /// Cells that share their tokens.
    cells_across: usize,
    cell_lanes: usize,
}

impl Grid {
    fn new(bands: usize, tokens: usize, threads: usize) -> Self {
        // Two cells a thread: one that was late elsewhere leaves its second to the others.
        let cell_bands = bands.div_ceil(2 * threads).clamp(1, CELL_BANDS_MAX);
        let cells_across = bands.div_ceil(cell_bands);
        Self { cell_bands, cells_across, cell_lanes: cell_bands * tokens.min(CELL_TOKENS) }
    }
}

/// One token's row out of scratch.
struct Finish<'a> {
    matrix: &'a Matrix,
    bias: Option<&'a [f32]>,
    scratch: &'a [Lanes],
    grid: Grid,
    /// Tokens of the panel.
    tokens: usize,
    token: usize,
    then: Then,
    out: &'a mut [f32],
}

impl Finish<'_> {
    #[inline(always)]
    fn lanes(&self, band: usize) -> Lanes {
        let (block, token) = (self.token / CELL_TOKENS, self.token % CELL_TOKENS);
        let block_tokens = CELL_TOKENS.min(self.tokens - block * CELL_TOKENS);
        let cell = block * self.grid.cells_across + band / self.grid.cell_bands;
        let within = band % self.grid.cell_bands * block_tokens + token;
        self.scratch[cell * self.grid.cell_lanes + within]
    }
}

impl Kernel for Finish<'_> {
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
                    put::<I>(&bias[row..][..count], &mut lanes[..count], Then::Add);
                }
                // A band may lie on both sides of the border between gate and up.
                let before = count.min(cols.saturating_sub(row));
                if before > 0 {
                    put::<I>(&lanes[..before], &mut self.out[row..][..before], self.then);
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
fn put<I: Isa>(lanes: &[f32], out: &mut [f32], then: Then) {
    match then {
        Then::Store => out.copy_from_slice(lanes),
        Then::Add => out.iter_mut().zip(lanes).for_each(|(out, x)| *out += x),
        Then::SiluGate => {
            out.iter_mut().zip(lanes).for_each(|(out, x)| *out = math::silu::<I>(*x));
        }
    }
}

#[inline(always)]
fn gate<I: Isa>(up: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(up).for_each(|(out, up)| *out *= up);
}

//! Rows of a grouped gemm's output, sorted by problem.
//!
//! A problem is some parts of a matrix times some rows of the panel: the whole matrix times all
//! rows, an expert times the tokens that chose it, a head times all tokens. All problems of a gemm
//! have as many bands.

use std::ops::Range;

use super::matrix::PackedMatrix;
use super::simd::Lanes;

/// Rows of a tile: enough to use a band well while it is in the nearest cache.
pub(super) const TILE_ROWS: usize = 32;

/// Which row of the panel, times which parts of the matrix, each row of the output is.
#[derive(Default)]
pub(super) struct GemmRows {
    /// Panel rows, problem by problem.
    panel_rows: Vec<usize>,
    blocks: Vec<RowBlock>,
    /// One for each row of the output.
    places: Vec<RowPlace>,
}

/// Consecutive rows of one problem, at most [`TILE_ROWS`].
#[derive(Clone)]
pub(super) struct RowBlock {
    /// Parts of the matrix.
    pub(super) parts: Range<usize>,
    /// Index of the first one's panel row.
    first: usize,
    pub(super) count: usize,
}

/// Which block a row is in, and which of its rows it is.
#[derive(Clone, Copy, Default)]
struct RowPlace {
    block: usize,
    within: usize,
}

impl GemmRows {
    /// Takes memory for so many rows.
    pub(super) fn reserve(&mut self, rows: usize) {
        self.panel_rows.reserve(rows);
        self.blocks.reserve(rows);
        self.places.reserve(rows);
    }

    /// Begins a gemm with so many rows of output, all of which are to be pushed.
    pub(super) fn begin(&mut self, rows: usize) {
        self.panel_rows.clear();
        self.blocks.clear();
        self.places.clear();
        self.places.resize(rows, RowPlace::default());
    }

    /// Adds the problem of those parts of the matrix: rows of the panel and of the output.
    pub(super) fn push(&mut self, parts: Range<usize>, rows: impl Iterator<Item = (usize, usize)>) {
        let mut within = TILE_ROWS;
        for (panel_row, out_row) in rows {
            if within == TILE_ROWS {
                let (parts, first) = (parts.clone(), self.panel_rows.len());
                self.blocks.push(RowBlock { parts, first, count: 0 });
                within = 0;
            }
            let block = self.blocks.len() - 1;
            self.places[out_row] = RowPlace { block, within };
            self.panel_rows.push(panel_row);
            within += 1;
            self.blocks[block].count = within;
        }
    }

    /// Makes it one problem: all of `matrix` times those rows of the panel, in order.
    pub(super) fn whole(&mut self, matrix: &PackedMatrix, panel_rows: Range<usize>) {
        self.begin(panel_rows.len());
        self.push(0..matrix.parts().len(), panel_rows.zip(0..));
    }

    pub(super) fn count(&self) -> usize {
        self.panel_rows.len()
    }

    pub(super) fn blocks(&self) -> &[RowBlock] {
        &self.blocks
    }

    /// Rows of the panel that a block multiplies.
    pub(super) fn panel_rows(&self, block: &RowBlock) -> &[usize] {
        &self.panel_rows[block.first..][..block.count]
    }

    /// The block of a row of the output, and where its lanes lie in scratch.
    #[inline(always)]
    pub(super) fn row<'a>(
        &'a self,
        out_row: usize,
        bands: usize,
        scratch: &'a [Lanes],
    ) -> (&'a RowBlock, RowLanes<'a>) {
        let RowPlace { block, within } = self.places[out_row];
        let block = &self.blocks[block];
        let lanes = &scratch[block.first * bands..][..block.count * bands];
        (block, RowLanes { lanes, within, stride: block.count })
    }
}

/// One row's lanes, band by band.
pub(super) struct RowLanes<'a> {
    lanes: &'a [Lanes],
    within: usize,
    stride: usize,
}

impl RowLanes<'_> {
    /// Those of one of the problem's bands.
    #[inline(always)]
    pub(super) fn of(&self, band: usize) -> Lanes {
        self.lanes[band * self.stride + self.within]
    }
}

/// How a gemm is cut into tiles: some bands times a block of rows. Tiles lie in scratch one after
/// the other, each `[bands][rows]`, so that a block is `[bands][rows]` too.
pub(super) struct TileGrid<'a> {
    rows: &'a GemmRows,
    /// Bands of a problem.
    bands: usize,
    tile_bands: usize,
    tiles_across: usize,
}

impl<'a> TileGrid<'a> {
    pub(super) fn new(rows: &'a GemmRows, bands: usize, tile_bands: usize) -> Self {
        Self { rows, bands, tile_bands, tiles_across: bands.div_ceil(tile_bands) }
    }

    pub(super) fn tiles(&self) -> usize {
        self.rows.blocks.len() * self.tiles_across
    }

    /// A tile's block of rows, and its bands as the problem counts them.
    pub(super) fn tile(&self, tile: usize) -> (&'a RowBlock, Range<usize>) {
        let first = tile % self.tiles_across * self.tile_bands;
        let bands = first..self.bands.min(first + self.tile_bands);
        (&self.rows.blocks[tile / self.tiles_across], bands)
    }

    /// Where a tile begins in scratch.
    pub(super) fn start(&self, tile: usize) -> usize {
        let (block, bands) = self.tile(tile);
        block.first * self.bands + bands.start * block.count
    }
}

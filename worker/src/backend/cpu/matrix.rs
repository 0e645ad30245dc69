//! Weights in memory: as packed as in the checkpoint, in the order in which the kernel reads them.
//!
//! Sixteen output rows make a *band*, and a lane of a register is a row of the band, so that a gemm
//! needs no sum across lanes. Within a band, weights come in blocks of some inputs by 16 rows
//! (`blocks/`). Bands that are not full, and blocks past the last input, hold zeros. Parts may
//! differ in type. Arithmetic is in `microkernel.rs`.

use std::ops::Range;

use binfer_shard::DType;

use super::blocks::{BlockRows, WeightBlocks};
use super::inputs::GROUP;
use super::simd::LANES;
use crate::backend::BackendError;

/// Consecutive output rows of one type.
pub(super) struct MatrixPart {
    /// BlockRows of the matrix that these are.
    pub(super) rows: Range<usize>,
    /// Bands of the matrix that these are.
    pub(super) bands: Range<usize>,
    pub(super) blocks: WeightBlocks,
}

/// A weight `[rows, cols]` that maps `cols` inputs to `rows` outputs.
pub(super) struct PackedMatrix {
    cols: usize,
    inputs: Range<usize>,
    parts: Vec<MatrixPart>,
    /// Of a stack: how many matrices it is, whose parts follow each other. They are multiplied by
    /// rows of their own: experts, heads.
    stacked: Option<usize>,
}

/// BlockRows as a checkpoint has them: row-major, whole blocks.
pub(super) struct CheckpointRows<'a> {
    /// Type of the elements.
    pub(super) dtype: DType,
    /// Outputs.
    pub(super) rows: usize,
    /// The rows' bytes, one row after the other.
    pub(super) bytes: &'a [u8],
}

impl PackedMatrix {
    /// Repacks `parts`, whose rows follow each other. All have `cols` columns; only those in
    /// `inputs` get an activation, the others count as times zero.
    pub(super) fn from_packed(
        cols: usize,
        inputs: Range<usize>,
        parts: &[CheckpointRows<'_>],
    ) -> Result<Self, BackendError> {
        let (packed, parts) = (parts, Vec::with_capacity(parts.len()));
        let mut matrix = Self { cols, inputs, parts, stacked: None };
        if matrix.inputs.start > matrix.inputs.end || matrix.inputs.end > cols {
            return Err(refuse(format!("inputs {:?} of {cols} columns", matrix.inputs)));
        }
        for packed in packed {
            let (first_row, first_band) = (matrix.rows(), matrix.bands());
            matrix.parts.push(MatrixPart {
                rows: first_row..first_row + packed.rows,
                bands: first_band..first_band + packed.rows.div_ceil(LANES),
                blocks: repack(cols, packed)?,
            });
        }
        Ok(matrix)
    }

    /// Makes it a stack of so many matrices.
    pub(super) fn stacked(self, problems: usize) -> Result<Self, BackendError> {
        let Self { parts, .. } = &self;
        if problems == 0 || !parts.len().is_multiple_of(problems) {
            return Err(refuse(format!("{} parts of {problems} matrices", parts.len())));
        }
        let bands = |parts: &[MatrixPart]| parts.iter().map(|part| part.bands.len()).sum::<usize>();
        let mut each = parts.chunks(parts.len() / problems).map(bands);
        let first = each.next();
        if each.any(|bands| Some(bands) != first) {
            return Err(refuse("matrices of a stack differ in rows".to_owned()));
        }
        Ok(Self { stacked: Some(problems), ..self })
    }

    /// Matrices of the stack that it is; 1 where it is none.
    pub(super) fn problems(&self) -> usize {
        self.stacked.unwrap_or(1)
    }

    pub(super) fn is_stack(&self) -> bool {
        self.stacked.is_some()
    }

    /// Parts of one matrix of the stack.
    pub(super) fn problem(&self, index: usize) -> Range<usize> {
        let each = self.parts.len() / self.problems();
        index * each..(index + 1) * each
    }

    /// Bands of one matrix of the stack.
    pub(super) fn problem_bands(&self) -> usize {
        self.bands() / self.problems()
    }

    /// Bands of those parts.
    pub(super) fn bands_of(&self, parts: &Range<usize>) -> Range<usize> {
        let parts = &self.parts[parts.clone()];
        let start = parts.first().map_or(0, |part| part.bands.start);
        start..parts.last().map_or(0, |part| part.bands.end)
    }

    /// Outputs.
    pub(super) fn rows(&self) -> usize {
        self.parts.last().map_or(0, |part| part.rows.end)
    }

    /// Columns as stored.
    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// Columns that get an activation.
    pub(super) fn inputs(&self) -> Range<usize> {
        self.inputs.clone()
    }

    /// Groups of sixteen rows; each part begins with a new one.
    pub(super) fn bands(&self) -> usize {
        self.parts.last().map_or(0, |part| part.bands.end)
    }

    pub(super) fn parts(&self) -> &[MatrixPart] {
        &self.parts
    }

    /// Groups of 32 inputs.
    pub(super) fn groups(&self) -> usize {
        self.cols.div_ceil(GROUP)
    }

    /// Writes a row's elements to `out`, which has room for all columns.
    pub(super) fn read_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows() && out.len() == self.cols, "a row of the matrix, and its room");
        for part in self.parts.iter().filter(|part| part.rows.contains(&row)) {
            part.blocks.read_row(row - part.rows.start, self.groups(), out);
        }
    }
}

fn refuse(cause: String) -> BackendError {
    BackendError::Args { operation: "load", cause }
}

fn repack(cols: usize, packed: &CheckpointRows<'_>) -> Result<WeightBlocks, BackendError> {
    let (dtype, rows) = (packed.dtype, packed.rows);
    let (elems, size) = (dtype.block_elems() as usize, dtype.block_bytes() as usize);
    let row_bytes = cols / elems * size;
    if !cols.is_multiple_of(elems) || packed.bytes.len() != rows * row_bytes {
        let bytes = packed.bytes.len();
        return Err(refuse(format!("{bytes} bytes for {rows} x {cols} of {}", dtype.name())));
    }
    WeightBlocks::pack(dtype, &BlockRows { count: rows, row_bytes, bytes: packed.bytes })
}

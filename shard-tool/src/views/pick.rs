//! Which rows of a source a view has, or which of its columns as rows.

use std::ops::Range;

use super::row_source::RowSource;
use super::{to_usize, unpacked};
use crate::dequant::dequantize_row;
use crate::{DType, Error};

/// The most elements that are unpacked at once, so as to transpose them: those of one head.
const UNPACKED_MAX: u64 = 1 << 26;

/// What a view takes of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    /// Row `r` is the source's row `first + r / run * stride + r % run`.
    Rows {
        first: u64,
        /// Rows that follow each other.
        run: u64,
        /// From the first row of a run to that of the next.
        stride: u64,
    },
    /// A transposed matrix. Row `r` is column `col + r % block * col_step` of the source, in its
    /// rows from `first + r / block * stride` on. Packed sources are dequantised to F32.
    Columns {
        first: u64,
        /// Rows of the view out of the same rows of the source.
        block: u64,
        stride: u64,
        col: u64,
        col_step: u64,
    },
}

impl Pick {
    /// All rows from the first on.
    pub(crate) const WHOLE: Self = Self::Rows { first: 0, run: u64::MAX, stride: 0 };

    /// The element type of what is picked.
    pub(super) fn dtype(self, source: &RowSource) -> DType {
        match self {
            Self::Rows { .. } => source.dtype(),
            Self::Columns { .. } => unpacked(source.dtype()),
        }
    }

    /// Whether the source has what is picked for a view of `rows` times `cols`, both above 0, and
    /// memory is bounded.
    pub(super) fn fits(self, source: &RowSource, rows: u64, cols: u64) -> bool {
        let end = |first: u64, count: u64, stride: u64, length: u64| {
            let last = count.checked_sub(1)?.checked_mul(stride)?.checked_add(first)?;
            last.checked_add(length)
        };
        let within = |end: Option<u64>, limit: u64| end.is_some_and(|end| end <= limit);
        match self {
            Self::Rows { first, run, stride } => {
                run > 0
                    && cols == source.cols()
                    && within(end(first, rows.div_ceil(run), stride, run.min(rows)), source.rows())
            }
            Self::Columns { first, block, stride, col, col_step } => {
                let unpacked = cols.saturating_mul(source.cols());
                block > 0
                    && (source.plain().is_some() || unpacked <= UNPACKED_MAX)
                    && within(end(first, rows.div_ceil(block), stride, cols), source.rows())
                    && within(end(col, block.min(rows), col_step, 1), source.cols())
            }
        }
    }

    /// Computes whole rows of a view that is `cols` wide.
    pub(super) fn rows(
        self,
        source: &RowSource,
        rows: Range<u64>,
        cols: u64,
        out: &mut [u8],
    ) -> Result<(), Error> {
        match self {
            Self::Rows { first, run, stride } => {
                let of = |row: u64| first + row / run * stride + row % run;
                source.read(&rows.map(of).collect::<Vec<_>>(), out)
            }
            Self::Columns { first, block, stride, col, col_step } => {
                let row_bytes = to_usize(cols) * self.dtype(source).block_bytes() as usize;
                let (mut next, mut out) = (rows.start, out);
                while next < rows.end {
                    let end = rows.end.min((next / block + 1) * block);
                    let (now, later) = out.split_at_mut(to_usize(end - next) * row_bytes);
                    let corner = first + next / block * stride;
                    let columns = Columns {
                        from: corner..corner + cols,
                        first: col + next % block * col_step,
                        step: col_step,
                        count: end - next,
                    };
                    columns.transpose(source, now)?;
                    (next, out) = (end, later);
                }
                Ok(())
            }
        }
    }
}

/// Columns of some rows of a source.
struct Columns {
    from: Range<u64>,
    first: u64,
    step: u64,
    count: u64,
}

impl Columns {
    /// Writes each column as a row.
    fn transpose(&self, source: &RowSource, out: &mut [u8]) -> Result<(), Error> {
        let rows = to_usize(self.from.end - self.from.start);
        let (step, count) = (to_usize(self.step), to_usize(self.count));
        let Some(tensor) = source.plain() else {
            let unpacked = self.dequantised(source)?;
            let width = unpacked.len() / rows.max(1);
            for (index, out) in out.chunks_exact_mut(rows * 4).enumerate().take(count) {
                let at = to_usize(self.first) + index * step;
                for (row, out) in out.chunks_exact_mut(4).enumerate() {
                    out.copy_from_slice(&unpacked[row * width + at].to_le_bytes());
                }
            }
            return Ok(());
        };
        let each = source.dtype().block_bytes() as usize;
        let length = (self.count - 1) * self.step + 1;
        let mut segments = vec![0; rows * to_usize(length) * each];
        tensor.read_columns(self.from.clone(), self.first..self.first + length, &mut segments)?;
        let width = to_usize(length) * each;
        for (index, out) in out.chunks_exact_mut(rows * each).enumerate().take(count) {
            for (row, out) in out.chunks_exact_mut(each).enumerate() {
                out.copy_from_slice(&segments[row * width + index * step * each..][..each]);
            }
        }
        Ok(())
    }

    /// The values of the rows.
    fn dequantised(&self, source: &RowSource) -> Result<Vec<f32>, Error> {
        let (dtype, rows) = (source.dtype(), self.from.clone().collect::<Vec<_>>());
        let mut packed = vec![0; rows.len() * to_usize(source.row_bytes())];
        source.read(&rows, &mut packed)?;
        let elements = packed.len() / dtype.block_bytes() as usize * dtype.block_elems() as usize;
        let mut values = vec![0.0; elements];
        dequantize_row(dtype, &packed, &mut values)?;
        Ok(values)
    }
}

//! Views: matrices that a checkpoint stores in another form, offered as if they were stored as they
//! are.
//!
//! Experts come fused, transposed and interleaved; scales of MXFP4 and FP8 lie in tensors of their
//! own; keys and values of latent attention share a matrix. A view offers each matrix by itself, as
//! rows of packed blocks, so that cutting, sharding and loading know nothing else. It computes the
//! bytes when they are read, piece by piece, in bounded memory.
//!
//! | module | knows |
//! |---|---|
//! | `row_source` | stored rows, and rows joined out of codes and scales |
//! | `pick` | which of them a view has, or which columns as rows |

mod pick;
mod row_source;

use std::ops::Range;

pub(crate) use pick::Pick;
pub(crate) use row_source::RowSource;

use crate::data_file::MappedTensor;
use crate::{DType, Error, ErrorKind, StoredTensor};

/// The most bytes of a view that are computed at once, unless one row has more.
const BAND_BYTES: u64 = 4 << 20;

/// A matrix that is computed out of stored tensors.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// Name, type, shape and bytes, as if it were stored. The offset is 0.
    pub(crate) info: StoredTensor,
    source: RowSource,
    pick: Pick,
}

impl View {
    /// Where its rows come from, if it has all of them.
    pub(crate) fn whole_source(&self) -> Option<&RowSource> {
        (self.pick == Pick::WHOLE).then_some(&self.source)
    }

    /// A view of `rows` times `cols` elements. Refuses a pick beyond the source.
    pub(crate) fn new(
        name: String,
        source: RowSource,
        pick: Pick,
        [rows, cols]: [u64; 2],
    ) -> Result<Self, Error> {
        let dtype = pick.dtype(&source);
        let refuse = |cause: &str| Error::new(ErrorKind::Mismatch, cause).tensor(&name);
        let padded = cols.checked_next_multiple_of(dtype.block_elems().into());
        let bytes = padded.and_then(|cols| rows.checked_mul(cols));
        let bytes = bytes.and_then(|elements| dtype.bytes_of(elements));
        let bytes = bytes.ok_or_else(|| refuse("its size is absurdly large"))?;
        if rows == 0 || cols == 0 || !pick.fits(&source, rows, cols) {
            return Err(refuse(
                "it reaches beyond the tensor that it is a part of, or is too large",
            ));
        }
        let info = StoredTensor { name, dtype, shape: vec![cols, rows], offset: 0, bytes };
        Ok(Self { info, source, pick })
    }

    /// The elements of the source that it has.
    pub(crate) fn elements(&self) -> u64 {
        self.info.rows().saturating_mul(self.info.cols())
    }

    /// The same matrix as a stored tensor, if its rows are stored as they are, one after the other.
    pub(crate) fn as_stored(&self) -> Option<MappedTensor> {
        let (Pick::Rows { first, run, .. }, Some(stored)) = (self.pick, self.source.stored())
        else {
            return None;
        };
        let offset = first.checked_mul(self.source.row_bytes())?.checked_add(stored.info.offset)?;
        let info = StoredTensor { offset, ..self.info.clone() };
        (run >= self.info.rows()).then(|| MappedTensor { file: stored.file.clone(), info })
    }

    /// Reads the bytes of `ranges` of the packed matrix, one after the other, into `out`, which has
    /// the length of all of them.
    pub(crate) fn fill(&self, ranges: &[Range<u64>], mut out: &mut [u8]) -> Result<(), Error> {
        let row_bytes = self.info.bytes / self.info.rows().max(1);
        let band_rows = (BAND_BYTES / row_bytes.max(1)).max(1);
        let mut band = Vec::new();
        for pieces in bands(ranges, row_bytes, band_rows) {
            let first = pieces.iter().map(|piece| piece.start / row_bytes).min().unwrap_or(0);
            let end = pieces.iter().map(|piece| piece.end.div_ceil(row_bytes)).max();
            let rows = first..end.unwrap_or(first);
            band.resize(to_usize((rows.end - rows.start) * row_bytes), 0);
            self.pick.rows(&self.source, rows, self.info.cols(), &mut band)?;
            for piece in pieces {
                let (now, later) = out.split_at_mut(to_usize(piece.end - piece.start));
                let from = to_usize(piece.start - first * row_bytes);
                now.copy_from_slice(&band[from..][..now.len()]);
                out = later;
            }
        }
        Ok(())
    }
}

/// Cuts ranges at bands of rows, then gathers neighbours that lie within one band.
fn bands(ranges: &[Range<u64>], row_bytes: u64, band_rows: u64) -> Vec<Vec<Range<u64>>> {
    let mut bands: Vec<(Range<u64>, Vec<Range<u64>>)> = Vec::new();
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        let mut start = range.start;
        while start < range.end {
            let first = start / row_bytes;
            let end = range.end.min((first + band_rows) * row_bytes);
            let rows = first..end.div_ceil(row_bytes);
            match bands.last_mut() {
                Some((held, pieces))
                    if held.end.max(rows.end) - held.start.min(rows.start) <= band_rows =>
                {
                    *held = held.start.min(rows.start)..held.end.max(rows.end);
                    pieces.push(start..end);
                }
                _ => bands.push((rows, std::iter::once(start..end).collect())),
            }
            start = end;
        }
    }
    bands.into_iter().map(|(_, pieces)| pieces).collect()
}

/// Converts a length that was checked against a tensor that is there, or against a bound.
fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// The type of a view that is computed: packed types have no columns to pick.
fn unpacked(dtype: DType) -> DType {
    if dtype.block_elems() > 1 { DType::F32 } else { dtype }
}

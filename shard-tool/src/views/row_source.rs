//! Rows of packed blocks: stored as they are, or joined out of codes and scales.

use std::ops::Range;

use super::to_usize;
use crate::data_file::MappedTensor;
use crate::{DType, Error, ErrorKind, StoredTensor};

/// Elements of a block of MXFP4, and the bytes of their codes.
const MXFP4_ELEMS: u64 = 32;
const MXFP4_CODES: usize = 16;
/// What a byte E8M0 must not be: it stands for no number.
const E8M0_NAN: u8 = 255;
/// Rows and columns that share a scale of FP8.
pub(crate) const FP8_BLOCK: u64 = 128;

/// A matrix whose rows can be read as packed blocks.
#[derive(Clone, Debug)]
pub(crate) enum RowSource {
    /// Stored as it is.
    Stored(MappedTensor),
    /// gpt-oss: `codes` has two elements in a byte, 16 bytes for each of `scales`.
    Mxfp4 { codes: MappedTensor, scales: MappedTensor },
    /// DeepSeek: `scales` has one for each 128 rows and 128 columns of `codes`.
    Fp8 { codes: MappedTensor, scales: MappedTensor },
}

impl RowSource {
    /// Joins codes and scales of MXFP4.
    pub(crate) fn mxfp4(codes: MappedTensor, scales: MappedTensor) -> Result<Self, Error> {
        let mut wanted = vec![MXFP4_CODES as u64];
        wanted.extend(&scales.info.shape);
        if scales.info.dtype != DType::U8 || scales.info.shape.len() < 2 {
            return Err(misshapen(&scales.info, "bytes for each row and block of 32"));
        }
        if codes.info.dtype != DType::U8 || codes.info.shape != wanted {
            let cause =
                format!("the codes of {} are not 16 bytes for each scale", scales.info.name);
            return Err(misshapen(&codes.info, &cause));
        }
        Ok(Self::Mxfp4 { codes, scales })
    }

    /// Joins codes and scales of FP8.
    pub(crate) fn fp8(codes: MappedTensor, scales: MappedTensor) -> Result<Self, Error> {
        let [cols, rows] = codes.info.shape[..] else {
            return Err(misshapen(&codes.info, "a matrix"));
        };
        if codes.info.dtype != DType::F8_E4M3 {
            return Err(misshapen(&codes.info, "F8_E4M3, as its scales want"));
        }
        let wanted = [cols.div_ceil(FP8_BLOCK), rows.div_ceil(FP8_BLOCK)];
        let number = matches!(scales.info.dtype, DType::F32 | DType::BF16);
        if !number || scales.info.shape != wanted {
            let cause = format!("F32 or BF16 of {wanted:?}, one for each 128 by 128");
            return Err(misshapen(&scales.info, &cause));
        }
        Ok(Self::Fp8 { codes, scales })
    }

    /// The tensors that it is stored in.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let (one, other) = match self {
            Self::Stored(stored) => (stored, None),
            Self::Mxfp4 { codes, scales } | Self::Fp8 { codes, scales } => (codes, Some(scales)),
        };
        std::iter::once(one).chain(other).map(|stored| stored.info.name.as_str())
    }

    pub(super) fn stored(&self) -> Option<&MappedTensor> {
        match self {
            Self::Stored(stored) => Some(stored),
            Self::Mxfp4 { .. } | Self::Fp8 { .. } => None,
        }
    }

    /// The tensor whose elements can be read one by one.
    pub(super) fn plain(&self) -> Option<&MappedTensor> {
        self.stored().filter(|stored| stored.info.dtype.block_elems() == 1)
    }

    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::Stored(stored) => stored.info.dtype,
            Self::Mxfp4 { .. } => DType::MXFP4,
            Self::Fp8 { .. } => DType::FP8_BLOCK,
        }
    }

    /// Elements of a row.
    pub(crate) fn cols(&self) -> u64 {
        match self {
            Self::Stored(stored) => stored.info.cols(),
            Self::Mxfp4 { scales, .. } => scales.info.cols().saturating_mul(MXFP4_ELEMS),
            Self::Fp8 { codes, .. } => codes.info.cols(),
        }
    }

    pub(crate) fn rows(&self) -> u64 {
        match self {
            Self::Stored(stored) => stored.info.rows(),
            Self::Mxfp4 { scales, .. } => scales.info.rows(),
            Self::Fp8 { codes, .. } => codes.info.rows(),
        }
    }

    /// Bytes of a packed row.
    pub(crate) fn row_bytes(&self) -> u64 {
        let dtype = self.dtype();
        self.cols().div_ceil(dtype.block_elems().into()) * u64::from(dtype.block_bytes())
    }

    /// Reads whole rows, packed, one after the other into `out`.
    pub(super) fn read(&self, rows: &[u64], out: &mut [u8]) -> Result<(), Error> {
        match self {
            Self::Stored(stored) => stored.read_rows(rows, self.row_bytes(), out),
            Self::Mxfp4 { codes, scales } => join_mxfp4(codes, scales, rows, out),
            Self::Fp8 { codes, scales } => join_fp8(codes, scales, rows, out),
        }
    }
}

fn misshapen(tensor: &StoredTensor, wanted: &str) -> Error {
    let (dtype, shape) = (tensor.dtype.name(), &tensor.shape);
    let cause = format!("it is {dtype} of [cols, rows] {shape:?}, not {wanted}");
    Error::new(ErrorKind::Mismatch, cause).tensor(&tensor.name)
}

/// Puts the scale before the codes of each block, and the codes in the order of GGUF: the first 16
/// elements in low halves of bytes, the other 16 in high ones.
fn join_mxfp4(
    codes: &MappedTensor,
    scales: &MappedTensor,
    rows: &[u64],
    out: &mut [u8],
) -> Result<(), Error> {
    let blocks = scales.info.cols();
    let mut scale_bytes = vec![0; rows.len() * to_usize(blocks)];
    scales.read_rows(rows, blocks, &mut scale_bytes)?;
    let mut code_bytes = vec![0; scale_bytes.len() * MXFP4_CODES];
    codes.read_rows(rows, blocks * MXFP4_CODES as u64, &mut code_bytes)?;
    if let Some(at) = scale_bytes.iter().position(|scale| *scale == E8M0_NAN) {
        let row = rows[at / to_usize(blocks.max(1))];
        let cause = format!("a scale in row {row} is 255, which is no number");
        return Err(Error::new(ErrorKind::Mismatch, cause).tensor(&scales.info.name));
    }
    let blocks = scale_bytes.iter().zip(code_bytes.as_chunks::<MXFP4_CODES>().0);
    for ((scale, pairs), out) in blocks.zip(out.as_chunks_mut::<17>().0) {
        let (first, second) = pairs.split_at(MXFP4_CODES / 2);
        out[0] = *scale;
        for ((low, high), out) in first.iter().zip(second).zip(out[1..].chunks_exact_mut(2)) {
            out[0] = low & 15 | high << 4;
            out[1] = low >> 4 | high & 0xf0;
        }
    }
    Ok(())
}

/// Puts the scale before the codes of each 128 columns; the last block is filled up with zeros.
fn join_fp8(
    codes: &MappedTensor,
    scales: &MappedTensor,
    rows: &[u64],
    out: &mut [u8],
) -> Result<(), Error> {
    let cols = to_usize(codes.info.cols());
    let mut code_bytes = vec![0; rows.len() * cols];
    codes.read_rows(rows, codes.info.cols(), &mut code_bytes)?;
    let row_bytes = cols.div_ceil(to_usize(FP8_BLOCK)) * DType::FP8_BLOCK.block_bytes() as usize;
    let mut held: Option<(u64, Vec<f32>)> = None;
    let of_rows = rows.iter().zip(code_bytes.chunks_exact(cols.max(1)));
    for ((row, codes), out) in of_rows.zip(out.chunks_exact_mut(row_bytes.max(1))) {
        let scale_row = row / FP8_BLOCK;
        let held = match &mut held {
            Some(held) if held.0 == scale_row => held,
            other => other.insert((scale_row, scale_values(scales, scale_row)?)),
        };
        let blocks = codes.chunks(to_usize(FP8_BLOCK)).zip(&held.1);
        for ((codes, scale), out) in blocks.zip(out.as_chunks_mut::<132>().0) {
            out[..4].copy_from_slice(&scale.to_le_bytes());
            out[4..][..codes.len()].copy_from_slice(codes);
            out[4 + codes.len()..].fill(0);
        }
    }
    Ok(())
}

/// A row of scales.
fn scale_values(scales: &MappedTensor, row: u64) -> Result<Vec<f32>, Error> {
    let (dtype, cols) = (scales.info.dtype, scales.info.cols());
    let bytes = cols * u64::from(dtype.block_bytes());
    let mut packed = vec![0; to_usize(bytes)];
    scales.read_rows(&[row], bytes, &mut packed)?;
    let mut values = vec![0.0; to_usize(cols)];
    crate::dequant::dequantize_row(dtype, &packed, &mut values)?;
    if values.iter().all(|scale| scale.is_finite()) {
        return Ok(values);
    }
    let cause = format!("a scale in row {row} is no number");
    Err(Error::new(ErrorKind::Mismatch, cause).tensor(&scales.info.name))
}

impl MappedTensor {
    /// Reads rows of so many bytes, one after the other.
    fn read_rows(&self, rows: &[u64], row_bytes: u64, out: &mut [u8]) -> Result<(), Error> {
        let mut ranges: Vec<Range<u64>> = Vec::with_capacity(rows.len());
        for row in rows {
            let next = row * row_bytes..(row + 1) * row_bytes;
            match ranges.last_mut() {
                Some(last) if last.end == next.start => last.end = next.end,
                _ => ranges.push(next),
            }
        }
        self.read(&ranges, out)
    }

    /// Reads columns of rows of plain elements, row by row.
    pub(super) fn read_columns(
        &self,
        rows: Range<u64>,
        cols: Range<u64>,
        out: &mut [u8],
    ) -> Result<(), Error> {
        let (each, width) = (u64::from(self.info.dtype.block_bytes()), self.info.cols());
        let range = |row: u64| (row * width + cols.start) * each..(row * width + cols.end) * each;
        self.read(&rows.map(range).collect::<Vec<_>>(), out)
    }
}

//! Dense weights: each element a bf16 or f16, rows padded to 16 bytes.

use binfer_shard::DType;

use super::half::Half;

/// Elements to which rows are padded: 16 bytes.
const ROW_ELEMENTS: usize = 8;

/// Elements from a row of `cols` to the next.
pub(super) fn stride(cols: usize) -> usize {
    cols.next_multiple_of(ROW_ELEMENTS)
}

/// Whether a checkpoint's elements are the device's.
pub(super) fn is_stored_as(half: Half, dtype: DType) -> bool {
    matches!((dtype, half), (DType::BF16, Half::Bf16) | (DType::F16, Half::F16))
}

/// Writes a row as it lies on the device, padded with zeros.
pub(super) fn write_row(half: Half, values: &[f32], out: &mut [u8]) {
    let (row, padding) = out.split_at_mut(values.len() * Half::BYTES);
    for (out, value) in row.as_chunks_mut().0.iter_mut().zip(values) {
        *out = half.to_bytes(*value);
    }
    padding.fill(0);
}

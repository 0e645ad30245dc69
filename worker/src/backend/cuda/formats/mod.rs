//! How weights lie on the device: a file a format, and the table of which tensor gets which.
//!
//! | file | is |
//! |---|---|
//! | `half.rs` | bf16 and f16, in which the backend computes |
//! | `dense.rs` | matrices of them |
//! | `packed.rs` | matrices of MXFP4 and FP8 blocks, which stay packed |
//!
//! Vectors (scales of norms, biases, sinks) are f32, whatever the format of matrices. A further
//! format is a file here, a variant of [`WeightFormat`], its row in [`WeightFormat::of`], and an
//! arm in `gemm/config.rs` that says which kernels multiply by it. How rows travel is
//! `upload.rs`'s, and how packed ones become the device's is `repack.rs`'s.

mod dense;
pub(super) mod half;
pub(super) mod packed;

use binfer_shard::dequant::dequantize_row;
use binfer_shard::{DType, LocalPart, LocalTensor};

use self::half::Half;
use self::packed::PackedFormat;
use crate::backend::BackendError;

/// Ends of the names of tensors that multiply head by head; `head_gemm` takes them dense.
const BY_HEAD: [&str; 2] = [".attn.k_b", ".attn.v_b"];

/// How the elements of a matrix lie on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum WeightFormat {
    /// See `dense.rs`.
    Dense(Half),
    /// See `packed.rs`.
    Packed(PackedFormat),
}

impl WeightFormat {
    /// The table: in which format a backend that computes in `half` keeps a checkpoint's `dtype`.
    pub(super) fn of(dtype: DType, half: Half) -> Self {
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 => Self::Dense(half),
            // Packed types are unpacked once, while they are loaded.
            DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::Q8_0 => {
                Self::Dense(half)
            }
            DType::Q4_K | DType::Q5_K | DType::Q6_K => Self::Dense(half),
            // No weights by themselves.
            DType::F8_E4M3 | DType::U8 => Self::Dense(half),
            DType::MXFP4 => Self::Packed(PackedFormat::Mxfp4),
            DType::FP8_BLOCK => Self::Packed(PackedFormat::Fp8),
        }
    }

    /// The format of a tensor: packed only where its kernels take that.
    pub(super) fn of_tensor(tensor: &LocalTensor, half: Half) -> Self {
        match BY_HEAD.iter().any(|end| tensor.name.ends_with(end)) {
            true => Self::Dense(half),
            false => Self::of_parts(&tensor.parts, half),
        }
    }

    /// The format of such parts: packed only where their blocks can stay whole.
    fn of_parts(parts: &[LocalPart], half: Half) -> Self {
        let dtype = parts.first().map_or(DType::F32, |part| part.dtype);
        let stays_whole = |part: &LocalPart| {
            part.dtype == dtype && part.inputs.start.is_multiple_of(dtype.block_elems())
        };
        match Self::of(dtype, half) {
            Self::Packed(_) if !parts.iter().all(stays_whole) => Self::Dense(half),
            format => format,
        }
    }

    /// Elements from a row of `cols` to the next, padding included.
    pub(super) fn stride(self, cols: usize) -> usize {
        match self {
            Self::Dense(_) => dense::stride(cols),
            Self::Packed(packed) => packed.stride(cols),
        }
    }

    /// Bytes of so many rows, of `stride` elements each.
    pub(super) fn matrix_bytes(self, rows: usize, stride: usize) -> usize {
        match self {
            Self::Dense(_) => rows * stride * Half::BYTES,
            Self::Packed(packed) => packed.matrix_bytes(rows, stride),
        }
    }
}

/// How the rows of a part of a weight lie on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowFormat {
    /// Elements are f32, without padding.
    Vector,
    /// Elements of bf16 or f16, padded.
    Dense(Half),
    /// Blocks of the checkpoint, on their way to be packed anew.
    AsTheyCome,
}

impl RowFormat {
    /// Whether a checkpoint's elements are the device's, so that whole rows need no conversion.
    pub(super) fn is_stored_as(self, dtype: DType) -> bool {
        match self {
            Self::Vector => dtype == DType::F32,
            Self::Dense(half) => dense::is_stored_as(half, dtype),
            Self::AsTheyCome => true,
        }
    }

    /// Writes a packed row of `dtype` as it lies on the device, of which `inputs` are fed. `values`
    /// is scratch with room for all of the row's elements.
    pub(super) fn write_row(
        self,
        (dtype, packed): (DType, &[u8]),
        inputs: std::ops::Range<usize>,
        values: &mut [f32],
        out: &mut [u8],
    ) -> Result<(), BackendError> {
        if self == Self::AsTheyCome {
            out.copy_from_slice(packed);
            return Ok(());
        }
        dequantize_row(dtype, packed, values)?;
        let fed = &values[inputs];
        match self {
            Self::Vector => {
                for (out, value) in out.as_chunks_mut().0.iter_mut().zip(fed) {
                    *out = value.to_le_bytes();
                }
            }
            Self::Dense(half) => dense::write_row(half, fed, out),
            Self::AsTheyCome => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use binfer_shard::spec::TensorCut;

    use super::*;

    #[test]
    fn a_row_is_converted_and_padded_with_zeros() {
        let packed: Vec<u8> = [1.5_f32, -2.0, 3.25].iter().flat_map(|x| x.to_le_bytes()).collect();
        let format = WeightFormat::of(DType::F32, Half::Bf16);
        let mut out = vec![0xff; format.matrix_bytes(1, format.stride(2))];
        assert_eq!(out.len(), 16);
        let row = RowFormat::Dense(Half::Bf16);
        row.write_row((DType::F32, &packed), 1..3, &mut [0.0; 3], &mut out).unwrap();
        let element = |index: usize| Half::Bf16.to_f32([out[2 * index], out[2 * index + 1]]);
        assert_eq!([0, 1, 2, 7].map(element), [-2.0, 3.25, 0.0, 0.0]);
        let mut out = [0xff; 8];
        RowFormat::Vector.write_row((DType::F32, &packed), 0..2, &mut [0.0; 3], &mut out).unwrap();
        assert_eq!(out[..4], 1.5_f32.to_le_bytes());
    }

    #[test]
    fn rows_that_lie_as_they_come_are_known() {
        let stored =
            |format: RowFormat| DType::ALL.into_iter().filter(move |d| format.is_stored_as(*d));
        assert!(stored(RowFormat::Vector).eq([DType::F32]));
        assert!(stored(RowFormat::Dense(Half::Bf16)).eq([DType::BF16]));
        assert!(stored(RowFormat::Dense(Half::F16)).eq([DType::F16]));
        assert!(stored(RowFormat::AsTheyCome).eq(DType::ALL));
    }

    #[test]
    fn blocks_stay_packed_only_where_none_is_cut_or_unlike_the_others() {
        let part = |dtype: DType, first| LocalPart {
            source: String::new(),
            dtype,
            rows: 8,
            cols: 256,
            inputs: first..256,
            ranges: Vec::new(),
        };
        let format = |parts: &[LocalPart]| WeightFormat::of_parts(parts, Half::Bf16);
        let dense = WeightFormat::Dense(Half::Bf16);
        let (mxfp4, fp8) = (part(DType::MXFP4, 32), part(DType::FP8_BLOCK, 128));
        assert_eq!(format(&[mxfp4.clone(), mxfp4.clone()]).stride(65), 128);
        assert_ne!(format(std::slice::from_ref(&fp8)), dense);
        assert_eq!(format(&[mxfp4, fp8]), dense);
        assert_eq!(format(&[part(DType::FP8_BLOCK, 64)]), dense);
        assert_eq!(format(&[part(DType::MXFP4, 16)]), dense);
        assert_eq!(format(&[part(DType::Q4_0, 0)]), dense);
        for (name, is_dense) in [("layers.3.attn.v_b", true), ("layers.3.attn.q_b", false)] {
            let parts = vec![part(DType::FP8_BLOCK, 0)];
            let tensor = LocalTensor { name: name.into(), cut: TensorCut::Replicated, parts };
            assert_eq!(WeightFormat::of_tensor(&tensor, Half::Bf16) == dense, is_dense, "{name}");
        }
    }
}

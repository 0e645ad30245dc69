//! Tensors as the copy engine wants them described.
//!
//! Two kinds: halves in boxes whose rows are 64 elements, swizzled by 128 bytes in shared memory,
//! and words of eight bytes as they lie. Both are zero outside of the tensor. Sizes are checked by
//! the driver.
#![allow(unsafe_code, reason = "part of the door, see mod.rs")]

use std::ffi::c_void;

use binfer_kernels::gemm_params::TensorMap;
use cudarc::driver::sys;

use super::error::{check, failed};
use crate::backend::BackendError;
use crate::backend::cuda::formats::half::Half;

/// Dimensions of a tensor at most.
const RANK_MAX: usize = 5;

/// A dimension of a tensor.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cuda) struct Dimension {
    pub(in crate::backend::cuda) size: usize,
    /// Elements from one to the next: 1 in the first dimension, multiples of 16 bytes in the
    /// others.
    pub(in crate::backend::cuda) stride: usize,
    /// Elements of this dimension in a box.
    pub(in crate::backend::cuda) in_box: u32,
}

/// What the elements of a tensor are.
struct Elements {
    kind: sys::CUtensorMapDataType,
    bytes: usize,
    swizzle: sys::CUtensorMapSwizzle,
}

/// Describes the halves at `address`, a multiple of 16, fastest dimension first.
pub(in crate::backend::cuda) fn describe(
    half: Half,
    address: u64,
    dimensions: &[Dimension],
) -> Result<TensorMap, BackendError> {
    let kind = match half {
        Half::Bf16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        Half::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
    };
    let swizzle = sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B;
    describe_elements(&Elements { kind, bytes: Half::BYTES, swizzle }, address, dimensions)
}

/// Describes words of eight bytes at `address`, a multiple of 16, fastest dimension first.
pub(in crate::backend::cuda) fn describe_words(
    address: u64,
    dimensions: &[Dimension],
) -> Result<TensorMap, BackendError> {
    let kind = sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT64;
    let swizzle = sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE;
    describe_elements(&Elements { kind, bytes: size_of::<u64>(), swizzle }, address, dimensions)
}

fn describe_elements(
    elements: &Elements,
    address: u64,
    dimensions: &[Dimension],
) -> Result<TensorMap, BackendError> {
    let rank = u32::try_from(dimensions.len()).unwrap_or(u32::MAX);
    if dimensions.is_empty() || dimensions.len() > RANK_MAX {
        return Err(failed("cuTensorMapEncodeTiled", format!("{dimensions:?}")));
    }
    let (mut sizes, mut strides) = ([1_u64; RANK_MAX], [0_u64; RANK_MAX]);
    let (mut in_box, each) = ([1_u32; RANK_MAX], [1_u32; RANK_MAX]);
    for (index, dimension) in dimensions.iter().enumerate() {
        sizes[index] = dimension.size as u64;
        strides[index] = (dimension.stride * elements.bytes) as u64;
        in_box[index] = dimension.in_box;
    }
    let mut map = sys::CUtensorMap { opaque: [0; 16] };
    // SAFETY: a place for a map, and arrays of at least `rank` numbers each, which the driver
    // reads.
    let status = unsafe {
        sys::cuTensorMapEncodeTiled(
            &raw mut map,
            elements.kind,
            rank,
            address as *mut c_void,
            sizes.as_ptr(),
            strides[1..].as_ptr(),
            in_box.as_ptr(),
            each.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            elements.swizzle,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    check(status, "cuTensorMapEncodeTiled")?;
    Ok(TensorMap(map.opaque))
}

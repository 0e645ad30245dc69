//! Launches of the gemms with weights in FP8 on Hopper (`cuda/moe_gemm_fp8_sm90.cu`), and how the
//! copy engine finds packed weights, those of experts too.

use binfer_kernels::fp8_gemm::{FP8_GEMM_KERNELS, FP8_GEMM_SLICES, FP8_GEMM_SM90, Fp8GemmConfig};
use binfer_kernels::gemm::Epilogue;
use binfer_kernels::gemm_params::TensorMap;
use binfer_kernels::moe_gemm::MOE_GEMM_SLICE;
use binfer_kernels::moe_params::MoeGemmSm90Params;

use super::desc::GemmCall;
use crate::backend::BackendError;
use crate::backend::cuda::device::LaunchBlocks;
use crate::backend::cuda::ffi::tensor_map::{Dimension, describe, describe_words};
use crate::backend::cuda::formats::packed::PackedFormat;
use crate::backend::cuda::launch::{Launcher, to_u32};
use crate::backend::cuda::weights::DeviceMatrix;

/// Rows of a strip, by which gate and up take turns.
const STRIP_ROWS: usize = 8;

/// Enqueues a gemm.
pub(super) fn launch(
    on: &Launcher<'_>,
    gemm: &GemmCall,
    config: &Fp8GemmConfig,
) -> Result<(), BackendError> {
    let kernel = FP8_GEMM_KERNELS[config.kernel];
    let is_glu = gemm.epilogue == Epilogue::Glu;
    let (k, m) = (gemm.weight.cols, gemm.m as usize);
    let x = [
        Dimension { size: k, stride: 1, in_box: MOE_GEMM_SLICE },
        Dimension { size: m, stride: k, in_box: kernel.tile_tokens },
    ];
    let of_block = PackedBox { rows: kernel.rows(), slices: FP8_GEMM_SLICES };
    let params = MoeGemmSm90Params {
        x: describe(on.device.half, gemm.x, &x)?,
        weight: packed_map(&gemm.weight, PackedFormat::Fp8, (1, is_glu), &of_block)?,
        bias: gemm.bias_address(),
        out: gemm.out,
        tiles: 0,
        tiles_max: config.tiles,
        in_features: to_u32(k),
        out_features: gemm.out_features(),
        stages: config.stages,
        alpha: 1.0,
        limit: f32::INFINITY,
        up_offset: 0.0,
        tokens: gemm.m,
        out_stride: gemm.out_stride,
        epilogue: gemm.epilogue as i32,
    };
    let blocks = LaunchBlocks {
        grid: [config.blocks, 1, 1],
        shared_bytes: Some(config.shared_bytes),
        ..LaunchBlocks::default()
    };
    let kernels = FP8_GEMM_SM90[config.kernel];
    on.device.launch_blocks(kernels[usize::from(is_glu)], blocks, &params)
}

/// What a block copies of packed weights at once.
pub(in crate::backend::cuda) struct PackedBox {
    /// Rows, gate and up both counted.
    pub(in crate::backend::cuda) rows: u32,
    /// Slices of 64 columns.
    pub(in crate::backend::cuda) slices: u32,
}

/// Words of eight bytes of a strip's slice: codes and scales.
fn slice_words(format: PackedFormat) -> usize {
    match format {
        PackedFormat::Mxfp4 => (64 * 4 + 16) / 8,
        PackedFormat::Fp8 => (128 * 4 + 16) / 8,
    }
}

/// Strips of packed weights; gate and up, if they are that, by turns. Experts, of which there may
/// be one, are a dimension, so no box crosses from one to the next.
pub(in crate::backend::cuda) fn packed_map(
    weight: &DeviceMatrix,
    format: PackedFormat,
    (experts, is_glu): (usize, bool),
    of_block: &PackedBox,
) -> Result<TensorMap, BackendError> {
    let slice = slice_words(format);
    let words = weight.stride / MOE_GEMM_SLICE as usize * slice;
    let columns = Dimension { size: words, stride: 1, in_box: of_block.slices * to_u32(slice) };
    let strips = (weight.rows / experts).div_ceil(STRIP_ROWS);
    let in_box = of_block.rows / to_u32(STRIP_ROWS);
    let experts = Dimension { size: experts, stride: strips * words, in_box: 1 };
    if !is_glu {
        let rows = Dimension { size: strips, stride: words, in_box };
        return describe_words(weight.address, &[columns, rows, experts]);
    }
    let half = strips / 2;
    let turns = Dimension { size: 2, stride: half * words, in_box: 2 };
    let rows = Dimension { size: half, stride: words, in_box: in_box / 2 };
    describe_words(weight.address, &[columns, turns, rows, experts])
}

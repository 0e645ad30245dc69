//! Launches of `skinny_gemm_sm90` (`cuda/skinny_gemm_sm90.cu`).
//!
//! Tensor maps are made for each launch: that takes a microsecond, and CUDA graphs keep them. A
//! norm between two such gemms of few tokens may be shared out among them
//! (`cuda/skinny_gemm_epilogue.cuh`).

use binfer_kernels::gemm::Epilogue;
use binfer_kernels::gemm_params::{SkinnyGemmParams, TensorMap};
use binfer_kernels::list;
use binfer_kernels::skinny_gemm::{
    FUSED_NORM_M_MAX, ROW_PARTIALS_MAX, SKINNY_GEMM_KERNELS, SkinnyGemmConfig,
};

use super::desc::GemmCall;
use crate::backend::BackendError;
use crate::backend::cuda::device::LaunchBlocks;
use crate::backend::cuda::ffi::tensor_map::{Dimension, describe};
use crate::backend::cuda::launch::{Launcher, to_u32};
use crate::backend::cuda::weights::DeviceVector;

/// Elements of a row of a box: 128 bytes.
const BOX_ELEMENTS: u32 = 64;
/// Features that gate and up take turns by.
const GLU_TURN: u32 = 8;
/// Chunks of weights left to ask for when the next kernel may start.
const START_NEXT_AHEAD: u32 = 2;

/// Bytes of a norm's sums of squares on their way from one gemm to the next.
pub(super) const SQUARES_BYTES: usize = 4 * (ROW_PARTIALS_MAX * FUSED_NORM_M_MAX) as usize;

/// A gemm's shares of the norms around it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NormShares {
    /// `x` lacks the factors of the norm in front; sums of squares of a token, and epsilon.
    pub(super) before: Option<(u32, f32)>,
    /// Scale of the norm behind, whose rows and sums of squares this gemm makes.
    pub(super) behind: Option<DeviceVector>,
    /// Where a norm's rows and its sums of squares lie between two gemms.
    pub(super) normed: u64,
    pub(super) squares: u64,
}

/// Enqueues a gemm.
pub(super) fn launch(
    on: &Launcher<'_>,
    gemm: &GemmCall,
    config: &SkinnyGemmConfig,
    norms: &NormShares,
) -> Result<(), BackendError> {
    let params = SkinnyGemmParams {
        squares: norms.before.map_or(0, |_| norms.squares),
        next_scale: norms.behind.map_or(0, |scale| scale.address),
        next_x: norms.normed,
        next_squares: norms.squares,
        partials: norms.before.map_or(0, |(partials, _)| partials),
        eps: norms.before.map_or(0.0, |(_, eps)| eps),
        ..params(on, gemm, config)?
    };
    on.device.launch_blocks(list::SKINNY_GEMM[config.kernel], blocks(config), &params)
}

/// What a kernel has to know of a gemm that has no share of a norm.
pub(super) fn params(
    on: &Launcher<'_>,
    gemm: &GemmCall,
    config: &SkinnyGemmConfig,
) -> Result<SkinnyGemmParams, BackendError> {
    Ok(SkinnyGemmParams {
        weight: weight_map(on, gemm, config)?,
        x: x_map(on, gemm, config)?,
        out: gemm.out,
        bias: gemm.bias_address(),
        out_features: gemm.out_features(),
        in_features: to_u32(gemm.weight.cols),
        tokens: gemm.m,
        out_stride: gemm.out_stride,
        epilogue: gemm.epilogue as u32,
        tile_n: config.tile_n,
        stages: config.stages,
        start_next_ahead: START_NEXT_AHEAD,
        ..SkinnyGemmParams::default()
    })
}

/// Rows of a weight in tiles; gate and up, if they are that, by turns of eight features.
fn weight_map(
    on: &Launcher<'_>,
    gemm: &GemmCall,
    config: &SkinnyGemmConfig,
) -> Result<TensorMap, BackendError> {
    let weight = &gemm.weight;
    let (rows, stride) = (weight.rows, weight.stride);
    let columns = Dimension { size: weight.cols, stride: 1, in_box: BOX_ELEMENTS };
    if gemm.epilogue != Epilogue::Glu {
        let rows = Dimension { size: rows, stride, in_box: config.tile_n };
        return describe(on.device.half, weight.address, &[columns, rows]);
    }
    let turn = GLU_TURN as usize;
    let turns_in_box = config.tile_n / (2 * GLU_TURN);
    let dimensions = [
        columns,
        Dimension { size: turn, stride, in_box: GLU_TURN },
        Dimension { size: 2, stride: rows / 2 * stride, in_box: 2 },
        Dimension { size: rows / 2 / turn, stride: turn * stride, in_box: turns_in_box },
    ];
    describe(on.device.half, weight.address, &dimensions)
}

fn x_map(
    on: &Launcher<'_>,
    gemm: &GemmCall,
    config: &SkinnyGemmConfig,
) -> Result<TensorMap, BackendError> {
    let (k, m) = (gemm.weight.cols, gemm.m as usize);
    let columns = Dimension { size: k, stride: 1, in_box: BOX_ELEMENTS };
    let rows = Dimension { size: m, stride: k, in_box: SKINNY_GEMM_KERNELS[config.kernel].tile_m };
    describe(on.device.half, gemm.x, &[columns, rows])
}

/// The blocks of a launch.
pub(super) fn blocks(config: &SkinnyGemmConfig) -> LaunchBlocks {
    LaunchBlocks {
        grid: [config.blocks, 1, 1],
        cluster: config.cluster,
        shared_bytes: Some(config.shared_bytes),
        ..LaunchBlocks::default()
    }
}

//! Launches of `moe_gemm_sm90` (`cuda/moe_gemm_sm90.cu`): the experts' grouped gemms on Hopper.
//!
//! Rows of tokens are first put in the order of positions, into the room of what the experts make
//! of them, which is free until the second gemm. Tensor maps are made for each launch.

use binfer_kernels::fp8_gemm::MOE_GEMM_SM90_FP8;
use binfer_kernels::gemm::Epilogue;
use binfer_kernels::gemm_params::TensorMap;
use binfer_kernels::list::{self, Kernel};
use binfer_kernels::moe_gemm::{
    MOE_GEMM_ROWS, MOE_GEMM_SLICE, MOE_GEMM_SM90_DENSE, MOE_GEMM_SM90_MXFP4, MoeGemmConfig,
};
use binfer_kernels::moe_params::{MoeGatherParams, MoeGemmSm90Params};

use super::call::ExpertsCall;
use super::{MoeCall, MoePlaces, address};
use crate::backend::BackendError;
use crate::backend::cuda::device::LaunchBlocks;
use crate::backend::cuda::ffi::tensor_map::{Dimension, describe};
use crate::backend::cuda::formats::WeightFormat;
use crate::backend::cuda::formats::packed::PackedFormat;
use crate::backend::cuda::gemm::fp8::{PackedBox, packed_map};
use crate::backend::cuda::launch::{Launcher, to_u32};
use crate::backend::cuda::weights::{DeviceMatrix, DeviceVector};

/// Rows that gate and up take turns by, and that make a strip.
const TURN: usize = 8;

/// One of the two grouped gemms.
struct GroupedGemm {
    /// T `[positions, inputs]`.
    x: u64,
    weight: DeviceMatrix,
    bias: Option<DeviceVector>,
    /// T `[positions, outputs]`.
    out: u64,
    is_glu: bool,
}

/// Enqueues both gemms for tiles of the config's size, of which there are at most `tiles_max`.
pub(super) fn launch(
    on: &Launcher<'_>,
    call: &MoeCall,
    places: &MoePlaces,
    (config, tiles_max): (&MoeGemmConfig, u32),
) -> Result<(), BackendError> {
    let experts = &call.experts;
    gather(on, call, places)?;
    let gate_up = GroupedGemm {
        x: experts.out_rows,
        weight: experts.gate_up,
        bias: experts.gate_up_bias,
        out: experts.inner_rows,
        is_glu: true,
    };
    let down = GroupedGemm {
        x: experts.inner_rows,
        weight: experts.down,
        bias: experts.down_bias,
        out: experts.out_rows,
        is_glu: false,
    };
    let slots = (on.shape.tokens * call.routing.top_k) as usize;
    for gemm in [gate_up, down] {
        let (alpha, limit, up_offset) = experts.activation();
        let params = MoeGemmSm90Params {
            x: x_map(on, &gemm, slots, config)?,
            weight: weight_map(on, experts, &gemm, config)?,
            bias: address(gemm.bias),
            out: gemm.out,
            tiles: places.tiles,
            tiles_max,
            in_features: to_u32(gemm.weight.cols),
            out_features: to_u32(gemm.outputs(experts)),
            stages: config.stages,
            alpha,
            limit,
            up_offset,
            out_stride: to_u32(gemm.outputs(experts)),
            epilogue: Epilogue::Store as i32,
            ..MoeGemmSm90Params::default()
        };
        let pieces = gemm.weight_rows(experts).div_ceil(MOE_GEMM_ROWS as usize);
        let blocks = to_u32(pieces).saturating_mul(tiles_max);
        let blocks = LaunchBlocks {
            grid: [blocks.min(on.device.chip().multiprocessors), 1, 1],
            shared_bytes: Some(config.shared_bytes),
            ..LaunchBlocks::default()
        };
        on.device.launch_blocks(kernel(&gemm, config), blocks, &params)?;
    }
    Ok(())
}

impl GroupedGemm {
    /// Rows of an expert's weight.
    fn weight_rows(&self, experts: &ExpertsCall) -> usize {
        self.weight.rows / experts.count as usize
    }

    /// What an expert makes of a token: gate and up make one number together.
    fn outputs(&self, experts: &ExpertsCall) -> usize {
        self.weight_rows(experts) / if self.is_glu { 2 } else { 1 }
    }
}

fn kernel(gemm: &GroupedGemm, config: &MoeGemmConfig) -> Kernel<MoeGemmSm90Params> {
    let kernels = match gemm.weight.format {
        WeightFormat::Dense(_) => MOE_GEMM_SM90_DENSE.as_slice(),
        WeightFormat::Packed(PackedFormat::Mxfp4) => MOE_GEMM_SM90_MXFP4.as_slice(),
        WeightFormat::Packed(PackedFormat::Fp8) => MOE_GEMM_SM90_FP8.as_slice(),
    };
    kernels[config.kernel][usize::from(gemm.is_glu)]
}

fn gather(on: &Launcher<'_>, call: &MoeCall, places: &MoePlaces) -> Result<(), BackendError> {
    let params = MoeGatherParams {
        x: call.router.x,
        out: call.experts.out_rows,
        positions: places.positions,
        hidden: to_u32(call.norm.scale.len),
        top_k: call.routing.top_k,
    };
    let slots = on.shape.tokens * call.routing.top_k;
    on.device.launch(list::MOE_GATHER, [slots, 1, 1], &params)
}

fn x_map(
    on: &Launcher<'_>,
    gemm: &GroupedGemm,
    slots: usize,
    config: &MoeGemmConfig,
) -> Result<TensorMap, BackendError> {
    let k = gemm.weight.cols;
    let columns = Dimension { size: k, stride: 1, in_box: MOE_GEMM_SLICE };
    let rows = Dimension { size: slots, stride: k, in_box: config.tile_tokens };
    describe(on.device.half, gemm.x, &[columns, rows])
}

/// Rows of a block, of dense weights 64 columns, of packed ones a stage; gate and up, if they are
/// that, by turns of eight rows. Experts are a dimension, so no box crosses from one to the next.
fn weight_map(
    on: &Launcher<'_>,
    experts: &ExpertsCall,
    gemm: &GroupedGemm,
    config: &MoeGemmConfig,
) -> Result<TensorMap, BackendError> {
    let (outputs, weight) = (gemm.outputs(experts), &gemm.weight);
    let count = experts.count as usize;
    let turns = MOE_GEMM_ROWS / to_u32(TURN);
    match weight.format {
        WeightFormat::Dense(_) => {
            let stride = weight.stride;
            let columns = Dimension { size: weight.cols, stride: 1, in_box: MOE_GEMM_SLICE };
            let of_experts = |rows| Dimension { size: count, stride: rows * stride, in_box: 1 };
            if !gemm.is_glu {
                let rows = Dimension { size: outputs, stride, in_box: MOE_GEMM_ROWS };
                let dimensions = [columns, rows, of_experts(outputs)];
                return describe(on.device.half, weight.address, &dimensions);
            }
            let dimensions = [
                columns,
                Dimension { size: TURN, stride, in_box: to_u32(TURN) },
                Dimension { size: 2, stride: outputs * stride, in_box: 2 },
                Dimension { size: outputs / TURN, stride: TURN * stride, in_box: turns / 2 },
                of_experts(2 * outputs),
            ];
            describe(on.device.half, weight.address, &dimensions)
        }
        WeightFormat::Packed(format) => {
            let of_block = PackedBox { rows: MOE_GEMM_ROWS, slices: config.slices };
            packed_map(weight, format, (count, gemm.is_glu), &of_block)
        }
    }
}

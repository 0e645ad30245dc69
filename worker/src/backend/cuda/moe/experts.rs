//! The grouped gemms of the experts: gate and up of all experts, then down of all experts.

use binfer_kernels::list::{self, GEMM_REFERENCE_TILE, Kernel};
use binfer_kernels::moe::MoeSchedule;
use binfer_kernels::moe_params::MoeGemmParams;
use binfer_shard::spec::ActivationFn;

use super::call::ExpertsCall;
use super::{MoeCall, MoePlaces, address};
use crate::backend::BackendError;
use crate::backend::cuda::formats::WeightFormat;
use crate::backend::cuda::formats::packed::PackedFormat;
use crate::backend::cuda::launch::{Launcher, to_u32};

/// Positions of a tile of the reference kernels.
pub(super) const TILE_TOKENS: u32 = GEMM_REFERENCE_TILE;

/// Enqueues both gemms.
pub(super) fn launch(
    on: &Launcher<'_>,
    call: &MoeCall,
    places: &MoePlaces,
    schedule: &MoeSchedule,
) -> Result<(), BackendError> {
    let ExpertsCall { gate_up, gate_up_bias, down, down_bias, .. } = call.experts;
    let (inner, hidden) = (to_u32(down.cols), to_u32(gate_up.cols));
    let (alpha, limit, up_offset) = activation(call.experts.act);
    let both = MoeGemmParams {
        tiles: places.tiles,
        top_k: call.routing.top_k,
        tiles_max: schedule.tiles_max,
        alpha,
        limit,
        up_offset,
        ..MoeGemmParams::default()
    };
    let gate_up_params = MoeGemmParams {
        x: call.router.x,
        weight: gate_up.address,
        bias: address(gate_up_bias),
        out: call.experts.inner_rows,
        slots_at: places.slots_at,
        in_features: hidden,
        out_features: inner,
        stride: to_u32(gate_up.stride),
        ..both
    };
    let down_params = MoeGemmParams {
        x: call.experts.inner_rows,
        weight: down.address,
        bias: address(down_bias),
        out: call.experts.out_rows,
        in_features: inner,
        out_features: hidden,
        stride: to_u32(down.stride),
        ..both
    };
    let grid = |params: &MoeGemmParams| {
        [params.out_features.div_ceil(GEMM_REFERENCE_TILE), params.tiles_max, 1]
    };
    let [_, glu] = kernels(gate_up.format);
    on.device.launch(glu, grid(&gate_up_params), &gate_up_params)?;
    let [store, _] = kernels(down.format);
    on.device.launch(store, grid(&down_params), &down_params)
}

/// Alpha, limit and what is added to up; see `MoeGemmParams` in `cuda/moe_params.h`.
fn activation(act: ActivationFn) -> (f32, f32, f32) {
    match act {
        ActivationFn::Silu => (1.0, f32::INFINITY, 0.0),
        ActivationFn::ClampedSwiglu { limit } => (ActivationFn::SWIGLU_ALPHA, limit, 1.0),
    }
}

/// The plain kernel of a format, and the gated one.
fn kernels(format: WeightFormat) -> [Kernel<MoeGemmParams>; 2] {
    match format {
        WeightFormat::Dense(_) => [list::MOE_GEMM_REFERENCE, list::MOE_GEMM_REFERENCE_GLU],
        WeightFormat::Packed(PackedFormat::Mxfp4) => {
            [list::MOE_GEMM_REFERENCE_MXFP4, list::MOE_GEMM_REFERENCE_GLU_MXFP4]
        }
        WeightFormat::Packed(PackedFormat::Fp8) => {
            [list::MOE_GEMM_REFERENCE_FP8, list::MOE_GEMM_REFERENCE_GLU_FP8]
        }
    }
}

//! The grouped gemms of the experts, gate and up of all experts, then down of all experts: which
//! kernels, and launches of the reference ones.

use binfer_kernels::chip::Chip;
use binfer_kernels::list::{self, GEMM_REFERENCE_TILE, Kernel};
use binfer_kernels::moe_gemm::{MoeGemmConfig, MoeGemmShape, MoeWeights, moe_gemm_config};
use binfer_kernels::moe_params::MoeGemmParams;

use super::call::ExpertsCall;
use super::{MoeCall, MoePlaces, address, experts_sm90};
use crate::backend::BackendError;
use crate::backend::cuda::formats::WeightFormat;
use crate::backend::cuda::formats::half::Half;
use crate::backend::cuda::formats::packed::PackedFormat;
use crate::backend::cuda::launch::{Launcher, to_u32};

/// Bytes of which addresses must be multiples for the copy engine.
const COPY_ALIGNMENT: u64 = 16;

/// The kernels of both gemms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) enum ExpertsConfig {
    /// `moe_gemm_sm90`: weights streamed once, through the copy engine and wgmma.
    Sm90(MoeGemmConfig),
    /// `moe_gemm_reference`: any shape and format, slowly.
    Reference,
}

impl ExpertsConfig {
    /// Positions of a tile, at most.
    pub(super) fn tile_tokens(&self) -> u32 {
        match self {
            Self::Sm90(config) => config.tile_tokens,
            Self::Reference => GEMM_REFERENCE_TILE,
        }
    }
}

/// Chooses the kernels for a step of so many tokens.
pub(super) fn experts_config(call: &MoeCall, tokens: u32, chip: &Chip) -> ExpertsConfig {
    let ExpertsCall { gate_up, down, .. } = &call.experts;
    let weights = match gate_up.format {
        WeightFormat::Dense(_) => Some(MoeWeights::Dense),
        // Products of packed weights are in bf16.
        WeightFormat::Packed(_) if call.half != Half::Bf16 => None,
        WeightFormat::Packed(PackedFormat::Mxfp4) => Some(MoeWeights::Mxfp4),
        WeightFormat::Packed(PackedFormat::Fp8) => Some(MoeWeights::Fp8),
    };
    let weights = weights.filter(|_| gate_up.format == down.format);
    let shape = MoeGemmShape {
        tokens,
        top_k: call.routing.top_k,
        experts: call.experts.of,
        hidden: to_u32(gate_up.cols),
        inner: to_u32(down.cols),
    };
    let rooms = [call.router.x, call.experts.inner_rows, call.experts.out_rows];
    let aligned = rooms.iter().all(|address| address.is_multiple_of(COPY_ALIGNMENT));
    let weights = weights.filter(|_| aligned);
    let config = weights.and_then(|weights| moe_gemm_config(&shape, weights, chip));
    config.map_or(ExpertsConfig::Reference, ExpertsConfig::Sm90)
}

/// Enqueues both gemms with the chosen kernels, for at most `tiles_max` tiles.
pub(super) fn launch(
    on: &Launcher<'_>,
    call: &MoeCall,
    places: &MoePlaces,
    (config, tiles_max): (&ExpertsConfig, u32),
) -> Result<(), BackendError> {
    match config {
        ExpertsConfig::Sm90(config) => experts_sm90::launch(on, call, places, (config, tiles_max)),
        ExpertsConfig::Reference => launch_reference(on, call, places, tiles_max),
    }
}

fn launch_reference(
    on: &Launcher<'_>,
    call: &MoeCall,
    places: &MoePlaces,
    tiles_max: u32,
) -> Result<(), BackendError> {
    let ExpertsCall { gate_up, gate_up_bias, down, down_bias, .. } = call.experts;
    let (inner, hidden) = (to_u32(down.cols), to_u32(gate_up.cols));
    let (alpha, limit, up_offset) = call.experts.activation();
    let both = MoeGemmParams {
        tiles: places.tiles,
        top_k: call.routing.top_k,
        tiles_max,
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

//! Gemms of any shape, slowly: `cuda/gemm_reference.cu`.

use binfer_kernels::gemm::Epilogue;
use binfer_kernels::gemm_params::ReferenceGemmParams;
use binfer_kernels::list::{self, GEMM_REFERENCE_TILE};

use super::desc::GemmCall;
use crate::backend::BackendError;
use crate::backend::cuda::launch::{Launcher, to_u32};

/// Enqueues a gemm.
pub(super) fn launch(on: &Launcher<'_>, gemm: &GemmCall) -> Result<(), BackendError> {
    let params = ReferenceGemmParams {
        x: gemm.x,
        weight: gemm.weight.address,
        bias: gemm.bias_address(),
        out: gemm.out,
        tokens: gemm.m,
        in_features: to_u32(gemm.weight.cols),
        out_features: gemm.out_features(),
        stride: to_u32(gemm.weight.stride),
        out_stride: gemm.out_stride,
        reserved: 0,
    };
    let kernel = match gemm.epilogue {
        Epilogue::Store => list::GEMM_REFERENCE,
        Epilogue::Glu => list::GEMM_REFERENCE_GLU,
        Epilogue::AddF32 => list::GEMM_REFERENCE_ADD,
        Epilogue::StoreF32 | Epilogue::LmHead => list::GEMM_REFERENCE_F32,
    };
    let tiles = |size: u32| size.div_ceil(GEMM_REFERENCE_TILE);
    on.device.launch(kernel, [tiles(params.out_features), tiles(params.tokens), 1], &params)
}

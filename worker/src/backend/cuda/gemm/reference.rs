//! Gemms of any shape, slowly: `cuda/gemm_reference.cu`.

use binfer_kernels::gemm::Epilogue;
use binfer_kernels::gemm_params::ReferenceGemmParams;
use binfer_kernels::list::{self, GEMM_REFERENCE_TILE, Kernel};

use super::desc::GemmCall;
use crate::backend::BackendError;
use crate::backend::cuda::formats::WeightFormat;
use crate::backend::cuda::formats::packed::PackedFormat;
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
    let kernel = kernel(gemm.weight.format, gemm.epilogue);
    let tiles = |size: u32| size.div_ceil(GEMM_REFERENCE_TILE);
    on.device.launch(kernel, [tiles(params.out_features), tiles(params.tokens), 1], &params)
}

fn kernel(format: WeightFormat, epilogue: Epilogue) -> Kernel<ReferenceGemmParams> {
    let [store, glu, add, f32] = match format {
        WeightFormat::Dense(_) => [
            list::GEMM_REFERENCE,
            list::GEMM_REFERENCE_GLU,
            list::GEMM_REFERENCE_ADD,
            list::GEMM_REFERENCE_F32,
        ],
        WeightFormat::Packed(PackedFormat::Mxfp4) => [
            list::GEMM_REFERENCE_MXFP4,
            list::GEMM_REFERENCE_GLU_MXFP4,
            list::GEMM_REFERENCE_ADD_MXFP4,
            list::GEMM_REFERENCE_F32_MXFP4,
        ],
        WeightFormat::Packed(PackedFormat::Fp8) => [
            list::GEMM_REFERENCE_FP8,
            list::GEMM_REFERENCE_GLU_FP8,
            list::GEMM_REFERENCE_ADD_FP8,
            list::GEMM_REFERENCE_F32_FP8,
        ],
    };
    match epilogue {
        Epilogue::Store => store,
        Epilogue::Glu => glu,
        Epilogue::AddF32 => add,
        Epilogue::StoreF32 | Epilogue::LmHead => f32,
    }
}

//! Gemms of any shape, slowly: `cuda/product.cu`.

use binfer_kernels::gemm::Epilogue;
use binfer_kernels::list::{self, PRODUCT_TILE};
use binfer_kernels::params::ProductParams;

use super::desc::Gemm;
use crate::backend::BackendError;
use crate::backend::cuda::launch::{Launcher, to_u32};

/// Enqueues a gemm.
pub(super) fn launch(on: &Launcher<'_>, gemm: &Gemm) -> Result<(), BackendError> {
    let params = ProductParams {
        x: gemm.x,
        weight: gemm.weight.address,
        bias: gemm.bias_address(),
        out: gemm.out,
        tokens: gemm.m,
        inputs: to_u32(gemm.weight.cols),
        outputs: gemm.out_features(),
        stride: to_u32(gemm.weight.stride),
        out_stride: gemm.out_stride,
        reserved: 0,
    };
    let kernel = match gemm.epilogue {
        Epilogue::Store => list::PRODUCT,
        Epilogue::Glu => list::PRODUCT_GLU,
        Epilogue::AddF32 => list::PRODUCT_RESIDUAL,
        Epilogue::StoreF32 | Epilogue::LmHead => list::PRODUCT_LOGITS,
    };
    let tiles = |size: u32| size.div_ceil(PRODUCT_TILE);
    on.device.launch(kernel, [tiles(params.outputs), tiles(params.tokens), 1], &params)
}

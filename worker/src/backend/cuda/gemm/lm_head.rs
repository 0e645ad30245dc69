//! The head on Hopper: a skinny gemm that makes statistics of logits while it has them, and writes
//! only those that something else will read (`cuda/lm_head_gemm.cu`).
//!
//! Which outputs' logits those are is known to the device alone, so that CUDA graphs serve all
//! steps: those with logprobs, with top-k, top-p or min-p at a temperature, with penalties or
//! biases. Other rows of the logits are left as they were. Statistics alone are for one rank, since
//! several ranks gather logits and sample from those, and for as many outputs as a skinny gemm
//! takes.

use binfer_kernels::gemm::Epilogue;
use binfer_kernels::gemm_params::LmHeadGemmParams;
use binfer_kernels::list;
use binfer_kernels::skinny_gemm::SkinnyGemmConfig;

use super::desc::GemmCall;
use super::skinny::{blocks, params};
use crate::backend::BackendError;
use crate::backend::cuda::ffi::error::failed;
use crate::backend::cuda::launch::Launcher;

/// Where statistics go, and which tokens of the vocabulary they are of.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cuda) struct LogitStatistics {
    /// `[outputs, tiles_per_row]`.
    pub(in crate::backend::cuda) tiles: u64,
    pub(in crate::backend::cuda) tiles_per_row: u32,
    pub(in crate::backend::cuda) vocab: u32,
    /// The token of the weight's first row.
    pub(in crate::backend::cuda) first_token: u32,
}

/// Enqueues the head's gemm with statistics.
pub(super) fn launch(
    on: &Launcher<'_>,
    gemm: &GemmCall,
    config: &SkinnyGemmConfig,
    statistics: &LogitStatistics,
) -> Result<(), BackendError> {
    let gemm = GemmCall { epilogue: Epilogue::LmHead, ..*gemm };
    let kernel = list::LM_HEAD_GEMM[config.kernel];
    let kernel = kernel.ok_or_else(|| failed("head", "this skinny gemm makes no statistics"))?;
    let params = LmHeadGemmParams {
        gemm: params(on, &gemm, config)?,
        step: on.places.tables,
        tiles: statistics.tiles,
        tiles_per_row: statistics.tiles_per_row,
        vocab: statistics.vocab,
        first_token: statistics.first_token,
    };
    on.device.launch_blocks(kernel, blocks(config), &params)
}

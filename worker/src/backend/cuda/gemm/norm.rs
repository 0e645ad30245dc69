//! RMSNorm as a kernel of its own, where no gemm takes a share of it.

use binfer_kernels::list;
use binfer_kernels::params::NormParams;

use super::desc::NormCall;
use crate::backend::BackendError;
use crate::backend::cuda::launch::{Launcher, to_u32};

/// Columns that `rms_norm_wide` takes at most.
const WIDE_COLS_MAX: u32 = 8192;

/// Which rows are normed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NormRows {
    /// All tokens.
    Tokens,
    /// Rows whose logits are wanted, gathered.
    Outputs,
}

/// Enqueues a norm into `out`, T `[rows, hidden]`.
pub(super) fn launch(
    on: &Launcher<'_>,
    norm: &NormCall,
    rows: NormRows,
    out: u64,
) -> Result<(), BackendError> {
    let (gather, count) = match rows {
        NormRows::Tokens => (0, on.shape.tokens),
        NormRows::Outputs => (on.places.tables.outputs, on.shape.outputs),
    };
    let params = NormParams {
        gather,
        x: norm.x,
        scale: norm.scale.address,
        out,
        cols: to_u32(norm.scale.len),
        eps: norm.eps,
    };
    let wide = params.cols.is_multiple_of(4) && params.cols <= WIDE_COLS_MAX;
    let aligned = [params.x, params.scale].iter().all(|address| address.is_multiple_of(16));
    let kernel = if wide && aligned { list::RMS_NORM_WIDE } else { list::RMS_NORM };
    on.device.launch(kernel, [count, 1, 1], &params)
}

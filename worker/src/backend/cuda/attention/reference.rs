//! Attention of any shape, slowly: `cuda/attention_reference.cu`.

use binfer_kernels::attention_params::AttentionParams;
use binfer_kernels::list;

use crate::backend::BackendError;
use crate::backend::cuda::launch::Launcher;

/// Enqueues attention: first norms, rotation and cache, then the sum over it.
pub(super) fn launch(on: &Launcher<'_>, params: &AttentionParams) -> Result<(), BackendError> {
    let heads = params.heads + 2 * params.kv_heads;
    on.device.launch(list::QKV_PREPARE, [params.tokens, heads, 1], params)?;
    on.device.launch(list::ATTENTION_REFERENCE, [params.tokens, params.heads, 1], params)
}

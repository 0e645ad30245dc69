//! What layers work with during one step.

use crate::backend::args::{NormLinearArgs, Tensor};
use crate::backend::{Backend, BackendError};
use crate::progress::{Operation, StepProgress};

/// The device and the activations of one step, as the decoder loop hands them to a layer.
pub struct LayerStep<'a> {
    /// The device.
    pub backend: &'a mut dyn Backend,
    /// Told of every operation before it is entered.
    pub progress: &'a StepProgress,
    /// Epsilon of every norm.
    pub norm_eps: f32,
    /// The first operation behind the attention or feed-forward under way, where another one
    /// follows.
    pub next: Option<NormLinearArgs>,
    /// The residual stream, `[tokens, hidden]`: read and written.
    pub x: Tensor,
    /// Room for what lies between a layer's gemms, `[tokens, intermediate]`.
    pub intermediate: Tensor,
    /// Room for attention's output, `[tokens, heads * head_dim]`.
    pub attn_out: Tensor,
    /// Room for what latent attention's second product of queries norms, `[tokens, q_rank]`.
    pub query_a: Tensor,
    /// Room for latent attention's queries, `[tokens, heads * query_dim]`.
    pub queries: Tensor,
    /// Room for what latent attention caches, `[tokens, latent + rope]`.
    pub latent: Tensor,
    /// Room between the gemms of experts, `[tokens * top_k, inner]`.
    pub expert_inner: Tensor,
    /// Room for what experts make of each token, `[tokens * top_k, hidden]`.
    pub expert_out: Tensor,
}

impl LayerStep<'_> {
    /// Enters an operation of a layer and runs it.
    pub(super) fn run(
        &mut self,
        operation: Operation,
        layer: usize,
        call: impl FnOnce(&mut dyn Backend) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        self.progress.enter(operation, Some(layer));
        call(self.backend)
    }
}

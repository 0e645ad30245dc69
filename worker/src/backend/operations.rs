//! The operations of a step: what the decoder loop and the engine call.

use std::sync::Arc;

use binfer_proto::Mask;

use super::args::{
    AttendArgs, AttendLatentArgs, EmbedArgs, HeadArgs, LinearOutArgs, MoeArgs, NormLinearArgs,
    SampleArgs,
};
use super::error::BackendError;
use super::step_output::{StepMode, StepOutcome, Ticket};
use crate::batch::Batch;

/// A device during steps. One thread calls it, in the order of steps.
///
/// Operations are as large as the largest fusion that we want: `linear_out` is gemm, bias, sum over
/// ranks and residual. A backend may split an operation. It may join one with the next only where
/// the arguments name the next. Primitive operations such as "add" or "reshape" are absent.
pub trait Backend: Send {
    /// Begins a step with these inputs. At most two steps are under way at a time.
    fn upload(&mut self, batch: Arc<Batch>) -> Result<StepMode, BackendError>;
    /// Looks up rows of the embedding table and sums them over ranks, each of which holds a part of
    /// the vocabulary.
    fn embed(&mut self, args: &EmbedArgs) -> Result<(), BackendError>;
    /// Computes RMSNorm, gemm, bias and gated activation.
    fn norm_linear(&mut self, args: &NormLinearArgs) -> Result<(), BackendError>;
    /// Computes norms of heads, rotary embedding, cache write and attention over the cache.
    fn attend(&mut self, args: &AttendArgs) -> Result<(), BackendError>;
    /// Computes norm of the latent vector, rotary embedding, cache write and latent attention over
    /// the cache.
    fn attend_latent(&mut self, args: &AttendLatentArgs) -> Result<(), BackendError>;
    /// Computes `out = residual + sum over ranks (gemm) + bias`.
    fn linear_out(&mut self, args: &LinearOutArgs) -> Result<(), BackendError>;
    /// Computes RMSNorm, routing, experts, and `out = x + sum over ranks`.
    fn moe(&mut self, args: &MoeArgs) -> Result<(), BackendError>;
    /// Computes RMSNorm and the LM head's gemm for the batch's output rows, gathered over ranks.
    fn head(&mut self, args: &HeadArgs) -> Result<(), BackendError>;
    /// Takes the token masks of the step under way, whose batch says `masked`, by rising output. An
    /// output without a mask is unrestricted. Masks come after `head` and before `sample`. In a
    /// step that a CUDA graph does they come before `commit`, and the graph waits for them.
    fn masks(&mut self, masks: Vec<Mask>) -> Result<(), BackendError>;
    /// Samples one token per output row and keeps it as its slot's last sample.
    fn sample(&mut self, args: &SampleArgs) -> Result<(), BackendError>;
    /// Ends the step uploaded last: all of it is enqueued.
    fn commit(&mut self) -> Result<Ticket, BackendError>;
    /// Says whether the device is done with a committed step.
    fn is_done(&mut self, ticket: Ticket) -> Result<bool, BackendError>;
    /// Waits for a committed step and reads its outcome. Steps are collected in order.
    fn collect(&mut self, ticket: Ticket) -> Result<StepOutcome, BackendError>;
}

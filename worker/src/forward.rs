//! The decoder loop, one for all models: embed, layers, head, sample.
//!
//! Nothing here depends on which model it is.

use crate::backend::args::{EmbedArgs, HeadArgs, SampleArgs};
use crate::backend::{Backend, BackendError};
use crate::batch::Batch;
use crate::layers::step::LayerStep;
use crate::memory::Activations;
use crate::model::Model;
use crate::progress::{Operation, StepProgress};

/// Runs the uploaded batch up to its logits.
pub fn forward(
    model: &Model,
    batch: &Batch,
    activations: &Activations,
    backend: &mut dyn Backend,
    progress: &StepProgress,
) -> Result<(), BackendError> {
    let tokens = batch.tokens.len();
    let x = activations.x.with_rows(tokens);
    progress.enter(Operation::Embed, None);
    let first_token = model.first_token;
    backend.embed(&EmbedArgs { table: model.embed, first_token, out: x })?;
    let norm_eps = model.norm_eps;
    let mut step = LayerStep {
        backend,
        progress,
        norm_eps,
        next: None,
        x,
        intermediate: activations.intermediate.with_rows(tokens),
        attn_out: activations.attn_out.with_rows(tokens),
        query_a: activations.query_a.with_rows(tokens),
        queries: activations.queries.with_rows(tokens),
        latent: activations.latent.with_rows(tokens),
        expert_inner: activations.expert_inner,
        expert_out: activations.expert_out,
    };
    let behind = model.layers.iter().skip(1).map(Some).chain([None]);
    for (layer, behind) in model.layers.iter().zip(behind) {
        step.next = layer.ffn.first_args(&step);
        layer.attention.forward(&mut step)?;
        step.next = behind.map(|layer| layer.attention.first_args(&step));
        layer.ffn.forward(&mut step)?;
    }
    if batch.outputs.is_empty() {
        return Ok(());
    }
    progress.enter(Operation::Head, None);
    let logits = activations.logits.with_rows(batch.outputs.len());
    let (norm, weight) = (model.final_norm, model.head);
    step.backend.head(&HeadArgs { x, norm, eps: norm_eps, weight, first_token, logits })
}

/// Samples the batch's tokens from the logits that [`forward`] left.
pub fn sample(
    batch: &Batch,
    activations: &Activations,
    backend: &mut dyn Backend,
    progress: &StepProgress,
) -> Result<(), BackendError> {
    if batch.outputs.is_empty() {
        return Ok(());
    }
    progress.enter(Operation::Sample, None);
    backend.sample(&SampleArgs { logits: activations.logits.with_rows(batch.outputs.len()) })
}

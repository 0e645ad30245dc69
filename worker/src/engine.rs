//! One step on one rank: apply, pack, enqueue; then wait and read.
//!
//! `launch` and `collect` are apart because a device runs while the host goes on. Host slots hold
//! nothing that depends on a sampled token. Deliberately absent: gRPC, threads, decisions.

use std::sync::Arc;
use std::time::Instant;

use binfer_proto::{
    Epoch, GroupId, Plan, PlanError, Rank, RowResult, RowStatus, StepId, StepResult, Tokens,
};

use crate::backend::{Backend, BackendError, StepOutput};
use crate::batch::Batch;
use crate::forward;
use crate::memory::Activations;
use crate::model::Model;
use crate::progress::{Operation, Progress};
use crate::slots::SlotTable;

/// Which worker this is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The replica.
    pub group: GroupId,
    /// Its life.
    pub epoch: Epoch,
    /// This worker's place.
    pub rank: Rank,
}

/// Why a step failed. Each of these ends the worker: the replicas are no longer equal.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The plan contradicts what this rank knows.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// An operation failed.
    #[error("step {step}: {source}")]
    Backend {
        /// The step.
        step: StepId,
        /// What failed.
        source: BackendError,
    },
}

/// What an engine is made of.
pub struct EngineParts {
    /// Who it is.
    pub identity: Identity,
    /// The device, loaded and allocated.
    pub backend: Box<dyn Backend>,
    /// The weights' handles.
    pub model: Model,
    /// The arena.
    pub activations: Activations,
    /// The slots.
    pub slots: SlotTable,
    /// Told of each operation.
    pub progress: Arc<Progress>,
}

/// A rank that is ready for steps.
pub struct Engine(EngineParts);

/// A step that was enqueued.
pub struct InFlight {
    step: StepId,
    plan_hash: u64,
    draws: Vec<bool>,
    began: Instant,
}

impl Engine {
    /// Takes the parts.
    pub fn new(parts: EngineParts) -> Self {
        Self(parts)
    }

    /// Applies the plan, packs it, enqueues forward and sample. Does not wait.
    pub fn launch(&mut self, plan: &Plan) -> Result<InFlight, EngineError> {
        let began = Instant::now();
        let EngineParts { progress, slots, .. } = &mut self.0;
        progress.launched(plan.step.0);
        progress.enter(Operation::Pack, None);
        let applied = slots.apply(plan)?;
        self.enqueue(Arc::new(applied.batch))
            .map_err(|source| EngineError::Backend { step: plan.step, source })?;
        let (plan_hash, draws) = (applied.plan_hash, applied.draws);
        Ok(InFlight { step: plan.step, plan_hash, draws, began })
    }

    fn enqueue(&mut self, batch: Arc<Batch>) -> Result<(), BackendError> {
        let EngineParts { backend, model, activations, progress, .. } = &mut self.0;
        let backend = &mut **backend;
        backend.upload(Arc::clone(&batch))?;
        forward::forward(model, &batch, activations, backend, progress)?;
        forward::sample(&batch, activations, backend, progress)
    }

    /// Waits for the step and reads its tokens and digest.
    pub fn collect(&mut self, step: InFlight) -> Result<StepResult, EngineError> {
        let EngineParts { identity, backend, progress, .. } = &mut self.0;
        let output =
            backend.collect().map_err(|source| EngineError::Backend { step: step.step, source })?;
        progress.finished(step.step.0);
        let rows = if identity.rank == Rank(0) { rows(&step, &output) } else { Vec::new() };
        Ok(StepResult {
            group: identity.group,
            epoch: identity.epoch,
            step: step.step,
            rank: identity.rank,
            plan_hash: step.plan_hash,
            digest: output.digest,
            rows,
            step_us: u32::try_from(step.began.elapsed().as_micros()).unwrap_or(u32::MAX),
        })
    }
}

/// Results of the plan's rows out of the batch's outputs, which skip rows that draw nothing.
fn rows(step: &InFlight, output: &StepOutput) -> Vec<RowResult> {
    let mut sampled = output.sampled.iter();
    let mut row = |draws: &bool| match draws.then(|| sampled.next()).flatten() {
        Some(sample) if sample.finite => (RowStatus::Ok, Tokens::from_slice(&[sample.token])),
        Some(_) => (RowStatus::NonFinite, Tokens::new()),
        None => (RowStatus::Ok, Tokens::new()),
    };
    step.draws
        .iter()
        .map(|draws| {
            let (status, tokens) = row(draws);
            RowResult { status, tokens, logprobs: Vec::new() }
        })
        .collect()
}

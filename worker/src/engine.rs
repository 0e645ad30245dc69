//! One step on one rank: apply, pack, enqueue; then wait and read.
//!
//! `launch` and `collect` are apart because a device runs while the host goes on. Host slots hold
//! nothing that depends on a sampled token. Deliberately absent: gRPC, threads, decisions.

use std::sync::Arc;
use std::time::Instant;

use binfer_proto::{
    Epoch, GroupId, Plan, PlanError, Rank, RowResult, RowStatus, StepId, StepResult, Tokens,
};

use crate::backend::{Backend, BackendError, Begun, StepOutput, Ticket};
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
    ticket: Ticket,
    plan_hash: u64,
    /// See [`crate::slots::Applied::draws`].
    draws: Vec<Option<u8>>,
    began: Instant,
}

impl Engine {
    /// Takes the parts.
    pub fn new(parts: EngineParts) -> Self {
        Self(parts)
    }

    /// Which rank it is.
    pub fn rank(&self) -> Rank {
        self.0.identity.rank
    }

    /// Applies the plan, packs it, enqueues forward and sample. Does not wait.
    pub fn launch(&mut self, plan: &Plan) -> Result<InFlight, EngineError> {
        let began = Instant::now();
        let EngineParts { progress, slots, .. } = &mut self.0;
        progress.launched(plan.step.0);
        progress.enter(Operation::Pack, None);
        let applied = slots.apply(plan)?;
        let ticket = self
            .enqueue(Arc::new(applied.batch))
            .map_err(|source| EngineError::Backend { step: plan.step, source })?;
        let (plan_hash, draws) = (applied.plan_hash, applied.draws);
        Ok(InFlight { step: plan.step, ticket, plan_hash, draws, began })
    }

    fn enqueue(&mut self, batch: Arc<Batch>) -> Result<Ticket, BackendError> {
        match self.0.backend.upload(Arc::clone(&batch))? {
            Begun::Operations => self.operate(&batch)?,
            Begun::Replayed => self.0.progress.replays(batch.rows.len()),
        }
        self.0.backend.commit()
    }

    /// Calls the operations of a step that the backend has begun.
    fn operate(&mut self, batch: &Batch) -> Result<(), BackendError> {
        let EngineParts { backend, model, activations, progress, .. } = &mut self.0;
        forward::forward(model, batch, activations, &mut **backend, progress)?;
        forward::sample(batch, activations, &mut **backend, progress)
    }

    /// Makes the recordings that the backend wants; before the first step.
    pub fn record(&mut self) -> Result<(), BackendError> {
        for rows in self.0.backend.recordings() {
            let batch = self.0.backend.begin_recording(rows)?;
            self.operate(&batch)?;
            self.0.backend.end_recording()?;
        }
        Ok(())
    }

    /// What memory was taken for what, for people; empty where the backend does not say.
    pub fn ledger(&self) -> String {
        let mib = |(name, bytes): &(String, u64)| format!("{name} {} MiB", bytes >> 20);
        self.0.backend.ledger().iter().map(mib).collect::<Vec<_>>().join(", ")
    }

    /// What is slower than it need be, for people.
    pub fn notes(&self) -> Vec<String> {
        self.0.backend.notes()
    }

    /// What was measured, for people; after the last step.
    pub fn report(&mut self) -> String {
        self.0.backend.report()
    }

    /// Whether [`Self::collect`] would not wait.
    pub fn is_done(&mut self, step: &InFlight) -> Result<bool, EngineError> {
        let done = self.0.backend.is_done(step.ticket);
        done.map_err(|source| EngineError::Backend { step: step.step, source })
    }

    /// Waits for the step and reads its tokens and digest.
    pub fn collect(&mut self, step: InFlight) -> Result<StepResult, EngineError> {
        let EngineParts { identity, backend, progress, .. } = &mut self.0;
        let output = backend
            .collect(step.ticket)
            .map_err(|source| EngineError::Backend { step: step.step, source })?;
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
    let (mut sampled, mut logprobs) = (output.sampled.iter(), output.logprobs.iter());
    let row = |draws: &Option<u8>| match draws.and_then(|count| Some((count, sampled.next()?))) {
        Some((count, sample)) if sample.finite => RowResult {
            status: RowStatus::Ok,
            tokens: Tokens::from_slice(&[sample.token]),
            logprobs: logprobs.by_ref().take(count.into()).copied().collect(),
        },
        drawn => RowResult {
            status: if drawn.is_some() { RowStatus::NonFinite } else { RowStatus::Ok },
            tokens: Tokens::new(),
            logprobs: Vec::new(),
        },
    };
    step.draws.iter().map(row).collect()
}

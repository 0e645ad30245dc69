//! One step on one rank: apply, pack, enqueue; then wait and read.
//!
//! `launch` and `collect` are apart because a device runs while the host goes on. `masks` comes
//! between them where a plan says so, because the forward runs while the host makes token masks.
//! Host slots hold nothing that depends on a sampled token.

use std::sync::Arc;
use std::time::Instant;

use binfer_proto::{
    Epoch, Masks, MasksError, Plan, PlanError, Rank, ReplicaId, RowResult, RowStatus, StepId,
    StepResult, Tokens,
};

use crate::backend::{BackendError, GraphCapture, ReadyDevice, StepMode, StepOutcome, Ticket};
use crate::batch::Batch;
use crate::forward;
use crate::memory::Activations;
use crate::model::Model;
use crate::progress::{Operation, StepProgress};
use crate::slots::{PackedPlan, SlotTable};

/// Which rank an engine is.
#[derive(Clone, Copy, Debug)]
pub struct RankIdentity {
    /// The replica.
    pub replica: ReplicaId,
    /// The life of the replica.
    pub epoch: Epoch,
    /// The place in the replica.
    pub rank: Rank,
}

/// Why a step failed. Each of these ends the worker, since the ranks are no longer equal.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The plan contradicts what this rank knows.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Masks came that no step waits for, or that the step that waits cannot have.
    #[error(transparent)]
    Masks(#[from] MasksError),
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
    /// Which rank it is.
    pub identity: RankIdentity,
    /// The device, loaded and allocated.
    pub device: ReadyDevice,
    /// The weights' handles.
    pub model: Model,
    /// Where activations lie.
    pub activations: Activations,
    /// The slots.
    pub slots: SlotTable,
    /// Where the engine is, for heartbeats.
    pub progress: Arc<StepProgress>,
}

/// A rank that is ready for steps.
pub struct Engine(EngineParts);

/// A step that was launched.
pub enum LaunchedStep {
    /// All of the step is enqueued.
    InFlight(StepInFlight),
    /// The step's forward is enqueued. It samples once it has its masks.
    Waiting(MaskedStep),
}

/// A step that was enqueued.
pub struct StepInFlight {
    applied: AppliedPlan,
    ticket: Ticket,
}

/// A step that is enqueued up to its logits, and waits for its masks.
pub struct MaskedStep {
    applied: AppliedPlan,
    batch: Arc<Batch>,
    mode: StepMode,
}

impl MaskedStep {
    /// Which step it is.
    pub fn step(&self) -> StepId {
        self.applied.step
    }
}

/// What a step's result needs of its plan.
struct AppliedPlan {
    step: StepId,
    plan_hash: u64,
    /// See [`PackedPlan::row_logprobs`].
    row_logprobs: Vec<Option<u8>>,
    began: Instant,
}

impl Engine {
    /// An engine of these parts.
    pub fn new(parts: EngineParts) -> Self {
        Self(parts)
    }

    /// Which rank it is.
    pub fn rank(&self) -> Rank {
        self.0.identity.rank
    }

    /// Applies the plan, packs it, and enqueues forward and, if it is not masked, sample. It does
    /// not wait.
    pub fn launch(&mut self, plan: &Plan) -> Result<LaunchedStep, EngineError> {
        let began = Instant::now();
        let EngineParts { progress, slots, .. } = &mut self.0;
        progress.launched(plan.step.0);
        progress.enter(Operation::Pack, None);
        let PackedPlan { batch, plan_hash, row_logprobs } = slots.apply(plan)?;
        let (step, batch) = (plan.step, Arc::new(batch));
        let mode = self.begin(&batch).map_err(|source| EngineError::Backend { step, source })?;
        let applied = AppliedPlan { step, plan_hash, row_logprobs, began };
        let waiting = MaskedStep { applied, batch, mode };
        if plan.masked {
            self.0.progress.enter(Operation::Masks, None);
            return Ok(LaunchedStep::Waiting(waiting));
        }
        self.sample_and_commit(waiting).map(LaunchedStep::InFlight)
    }

    /// Enqueues the sampling of the step that waits. No other plan is launched before.
    pub fn masks(
        &mut self,
        waiting: MaskedStep,
        masks: Masks,
    ) -> Result<StepInFlight, EngineError> {
        let RankIdentity { replica, epoch, .. } = self.0.identity;
        let step = waiting.step();
        if (masks.replica, masks.epoch, masks.step) != (replica, epoch, step) {
            let cause = format!(
                "replica {} epoch {} came where replica {replica} epoch {epoch} step {step} waits",
                masks.replica, masks.epoch
            );
            return Err(MasksError { step: masks.step, cause }.into());
        }
        let vocab = self.0.slots.limits().vocab;
        masks.check(waiting.batch.outputs.len(), vocab)?;
        let taken = self.0.device.backend().masks(masks.rows);
        taken.map_err(|source| EngineError::Backend { step, source })?;
        self.sample_and_commit(waiting)
    }

    /// Uploads a step and enqueues its forward.
    fn begin(&mut self, batch: &Arc<Batch>) -> Result<StepMode, BackendError> {
        let mode = self.0.device.backend().upload(Arc::clone(batch))?;
        match mode {
            StepMode::Eager => self.forward(batch)?,
            StepMode::Graph => self.0.progress.enter_graph(batch.rows.len()),
        }
        Ok(mode)
    }

    /// Enqueues the sampling of a step, and its end.
    fn sample_and_commit(&mut self, waiting: MaskedStep) -> Result<StepInFlight, EngineError> {
        let MaskedStep { applied, batch, mode } = waiting;
        let sampled = if mode == StepMode::Eager { self.sample(&batch) } else { Ok(()) };
        let ticket = sampled.and_then(|()| self.0.device.backend().commit());
        let ticket =
            ticket.map_err(|source| EngineError::Backend { step: applied.step, source })?;
        Ok(StepInFlight { applied, ticket })
    }

    fn forward(&mut self, batch: &Batch) -> Result<(), BackendError> {
        let EngineParts { device, model, activations, progress, .. } = &mut self.0;
        forward::forward(model, batch, activations, device.backend(), progress)
    }

    fn sample(&mut self, batch: &Batch) -> Result<(), BackendError> {
        let EngineParts { device, activations, progress, .. } = &mut self.0;
        forward::sample(batch, activations, device.backend(), progress)
    }

    /// Captures the graphs that the device wants; before the first step.
    pub fn capture_graphs(&mut self) -> Result<(), BackendError> {
        let EngineParts { device, model, activations, progress, .. } = &mut self.0;
        let Some(graphs) = device.graphs() else { return Ok(()) };
        for rows in graphs.graph_buckets() {
            let batch = graphs.begin_capture(rows)?;
            forward::forward(model, &batch, activations, graphs, progress)?;
            forward::sample(&batch, activations, graphs, progress)?;
            graphs.end_capture()?;
        }
        Ok(())
    }

    /// Runs the step that the device wants to have run before the first one. Nothing comes of it.
    pub fn warm_up(&mut self) -> Result<(), BackendError> {
        let graphs = self.0.device.graphs();
        let Some(batch) = graphs.and_then(GraphCapture::warmup).map(Arc::new) else {
            return Ok(());
        };
        if self.begin(&batch)? == StepMode::Eager {
            self.sample(&batch)?;
        }
        let backend = self.0.device.backend();
        let ticket = backend.commit()?;
        backend.collect(ticket).map(drop)
    }

    /// What memory was taken for what, for people; empty where the backend does not say.
    pub fn ledger(&self) -> String {
        let mib = |(name, bytes): &(String, u64)| format!("{name} {} MiB", bytes >> 20);
        self.0.device.device().ledger().iter().map(mib).collect::<Vec<_>>().join(", ")
    }

    /// What is slower than it need be, for people.
    pub fn notes(&self) -> Vec<String> {
        self.0.device.device().notes()
    }

    /// What was measured, for people; after the last step.
    pub fn report(&mut self) -> String {
        self.0.device.report()
    }

    /// Says whether [`Self::collect`] would not wait.
    pub fn is_done(&mut self, step: &StepInFlight) -> Result<bool, EngineError> {
        let done = self.0.device.backend().is_done(step.ticket);
        done.map_err(|source| EngineError::Backend { step: step.applied.step, source })
    }

    /// Waits for the step and reads its tokens and digest.
    pub fn collect(&mut self, step: StepInFlight) -> Result<StepResult, EngineError> {
        let EngineParts { identity, device, progress, .. } = &mut self.0;
        let StepInFlight { applied, ticket } = step;
        let output = device
            .backend()
            .collect(ticket)
            .map_err(|source| EngineError::Backend { step: applied.step, source })?;
        progress.finished(applied.step.0);
        let is_first = identity.rank == Rank(0);
        let rows = if is_first { rows(&applied.row_logprobs, &output) } else { Vec::new() };
        Ok(StepResult {
            replica: identity.replica,
            epoch: identity.epoch,
            step: applied.step,
            rank: identity.rank,
            plan_hash: applied.plan_hash,
            digest: output.digest,
            rows,
            step_us: u32::try_from(applied.began.elapsed().as_micros()).unwrap_or(u32::MAX),
        })
    }
}

/// Results of the plan's rows. The batch has outputs for rows that sample a token, and no others.
fn rows(row_logprobs: &[Option<u8>], output: &StepOutcome) -> Vec<RowResult> {
    let (mut sampled, mut logprobs) = (output.sampled.iter(), output.logprobs.iter());
    let row = |count: &Option<u8>| match count.and_then(|count| Some((count, sampled.next()?))) {
        Some((count, sample)) if sample.finite => RowResult {
            status: RowStatus::Ok,
            tokens: Tokens::from_slice(&[sample.token]),
            logprobs: logprobs.by_ref().take(count.into()).copied().collect(),
        },
        without => RowResult {
            status: if without.is_some() { RowStatus::NonFinite } else { RowStatus::Ok },
            tokens: Tokens::new(),
            logprobs: Vec::new(),
        },
    };
    row_logprobs.iter().map(row).collect()
}

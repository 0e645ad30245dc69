//! One step on one rank: apply, pack, enqueue; then wait and read.
//!
//! `launch` and `collect` are apart because a device runs while the host goes on; `masks` is between
//! them where a plan says so, because the forward runs while the host makes them. Host slots hold
//! nothing that depends on a sampled token. Deliberately absent: gRPC, threads, decisions.

use std::sync::Arc;
use std::time::Instant;

use binfer_proto::{
    Epoch, GroupId, Masks, MasksError, Plan, PlanError, Rank, RowResult, RowStatus, StepId,
    StepResult, Tokens,
};

use crate::backend::{Backend, BackendError, StepMode, StepOutput, Ticket};
use crate::batch::Batch;
use crate::forward;
use crate::memory::Activations;
use crate::model::Model;
use crate::progress::{Operation, Progress};
use crate::slots::{Applied, SlotTable};

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
    /// Masks came that no step waits for, or that the one that waits cannot have.
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

/// A step that was launched.
pub enum Launched {
    /// All of it is enqueued.
    InFlight(InFlight),
    /// Its forward is; it draws once it has its masks.
    Waiting(Waiting),
}

/// A step that was enqueued.
pub struct InFlight {
    applied: AppliedPlan,
    ticket: Ticket,
}

/// A step whose drawing is not enqueued.
pub struct Waiting {
    applied: AppliedPlan,
    batch: Arc<Batch>,
    mode: StepMode,
}

impl Waiting {
    /// Which step it is.
    pub fn step(&self) -> StepId {
        self.applied.step
    }
}

/// What a step's result needs of its plan.
struct AppliedPlan {
    step: StepId,
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

    /// Applies the plan, packs it, enqueues forward and, if it is not masked, sample. Does not wait.
    pub fn launch(&mut self, plan: &Plan) -> Result<Launched, EngineError> {
        let began = Instant::now();
        let EngineParts { progress, slots, .. } = &mut self.0;
        progress.launched(plan.step.0);
        progress.enter(Operation::Pack, None);
        let Applied { batch, plan_hash, draws } = slots.apply(plan)?;
        let (step, batch) = (plan.step, Arc::new(batch));
        let mode = self.begin(&batch).map_err(|source| EngineError::Backend { step, source })?;
        let applied = AppliedPlan { step, plan_hash, draws, began };
        let waiting = Waiting { applied, batch, mode };
        if plan.masked {
            self.0.progress.enter(Operation::Masks, None);
            return Ok(Launched::Waiting(waiting));
        }
        self.draw(waiting).map(Launched::InFlight)
    }

    /// Enqueues the drawing of the step that waits. No other plan is launched before.
    pub fn masks(&mut self, waiting: Waiting, masks: Masks) -> Result<InFlight, EngineError> {
        let Identity { group, epoch, .. } = self.0.identity;
        let step = waiting.step();
        if (masks.group, masks.epoch, masks.step) != (group, epoch, step) {
            let cause = format!(
                "group {} epoch {} came where group {group} epoch {epoch} step {step} waits",
                masks.group, masks.epoch
            );
            return Err(MasksError { step: masks.step, cause }.into());
        }
        let vocab = self.0.slots.limits().vocab;
        masks.check(waiting.batch.outputs.len(), vocab)?;
        let taken = self.0.backend.masks(masks.rows);
        taken.map_err(|source| EngineError::Backend { step, source })?;
        self.draw(waiting)
    }

    /// Uploads a step and enqueues its forward.
    fn begin(&mut self, batch: &Arc<Batch>) -> Result<StepMode, BackendError> {
        let mode = self.0.backend.upload(Arc::clone(batch))?;
        match mode {
            StepMode::Eager => self.forward(batch)?,
            StepMode::Graph => self.0.progress.replays(batch.rows.len()),
        }
        Ok(mode)
    }

    /// Enqueues the rest of a step.
    fn draw(&mut self, waiting: Waiting) -> Result<InFlight, EngineError> {
        let Waiting { applied, batch, mode } = waiting;
        let sampled = if mode == StepMode::Eager { self.sample(&batch) } else { Ok(()) };
        let ticket = sampled.and_then(|()| self.0.backend.commit());
        let ticket =
            ticket.map_err(|source| EngineError::Backend { step: applied.step, source })?;
        Ok(InFlight { applied, ticket })
    }

    fn forward(&mut self, batch: &Batch) -> Result<(), BackendError> {
        let EngineParts { backend, model, activations, progress, .. } = &mut self.0;
        forward::forward(model, batch, activations, &mut **backend, progress)
    }

    fn sample(&mut self, batch: &Batch) -> Result<(), BackendError> {
        let EngineParts { backend, activations, progress, .. } = &mut self.0;
        forward::sample(batch, activations, &mut **backend, progress)
    }

    /// Captures the graphs that the backend wants; before the first step.
    pub fn capture_graphs(&mut self) -> Result<(), BackendError> {
        for rows in self.0.backend.graph_buckets() {
            let batch = self.0.backend.begin_capture(rows)?;
            self.forward(&batch)?;
            self.sample(&batch)?;
            self.0.backend.end_capture()?;
        }
        Ok(())
    }

    /// Runs the step that the backend wants to have run before the first one; nothing comes of it.
    pub fn warm_up(&mut self) -> Result<(), BackendError> {
        let Some(batch) = self.0.backend.warmup().map(Arc::new) else { return Ok(()) };
        if self.begin(&batch)? == StepMode::Eager {
            self.sample(&batch)?;
        }
        let ticket = self.0.backend.commit()?;
        self.0.backend.collect(ticket).map(drop)
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
        done.map_err(|source| EngineError::Backend { step: step.applied.step, source })
    }

    /// Waits for the step and reads its tokens and digest.
    pub fn collect(&mut self, step: InFlight) -> Result<StepResult, EngineError> {
        let EngineParts { identity, backend, progress, .. } = &mut self.0;
        let InFlight { applied, ticket } = step;
        let output = backend
            .collect(ticket)
            .map_err(|source| EngineError::Backend { step: applied.step, source })?;
        progress.finished(applied.step.0);
        let draws = &applied.draws;
        let rows = if identity.rank == Rank(0) { rows(draws, &output) } else { Vec::new() };
        Ok(StepResult {
            group: identity.group,
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

/// Results of the plan's rows out of the batch's outputs, which skip rows that draw nothing.
fn rows(draws: &[Option<u8>], output: &StepOutput) -> Vec<RowResult> {
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
    draws.iter().map(row).collect()
}

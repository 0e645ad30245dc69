//! The state that threads with jobs share with the supervisor of the text process.

use super::wire::{self, Refusal, TextReply};
use crate::text::TextError;
use binfer_proto::Token;
use std::collections::BTreeMap;
use std::io::PipeWriter;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What became of a job.
#[derive(Debug)]
pub(super) enum JobOutcome {
    Tokens(Vec<Token>),
    Files(Vec<u8>),
    Refused(TextError),
    /// The process ended while it had the job, perhaps because of another job.
    Ended(String),
    /// The process was ended because this job took too long.
    Late,
}

impl JobOutcome {
    /// What the process did in a job that it had alone.
    pub(super) fn into_result(self, deadline: Duration) -> Result<JobDone, TextError> {
        let lost = |cause: String| {
            let cause = format!("this text cannot be made into tokens: {cause}");
            Err(TextError::Lost(cause))
        };
        match self {
            Self::Tokens(tokens) => Ok(JobDone::Tokens(tokens)),
            Self::Files(json) => Ok(JobDone::Files(json)),
            Self::Refused(error) => Err(error),
            Self::Ended(cause) => lost(format!("the model's tokenizer was ended over it: {cause}")),
            Self::Late => lost(format!(
                "the model's tokenizer or template took more than {} s over it",
                deadline.as_secs_f32()
            )),
        }
    }
}

/// What came of a job that was done.
#[derive(Debug)]
pub(super) enum JobDone {
    Tokens(Vec<Token>),
    Files(Vec<u8>),
}

/// The model's files are not those of the first start.
#[derive(Debug, thiserror::Error)]
#[error("the model's files are others than at the server's start")]
pub(super) struct FilesChanged;

/// The state, and the signal that it changed.
#[derive(Debug, Default)]
pub(super) struct SharedState {
    state: Mutex<ProcessState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct ProcessState {
    pub(super) phase: ProcessPhase,
    input: Option<Arc<Mutex<PipeWriter>>>,
    /// The id of the last job; the process itself uses 0.
    last_id: u64,
    waiting: BTreeMap<u64, WaitingJob>,
    /// The facts that the process sent at its first start.
    pub(super) facts: Option<Vec<u8>>,
    /// Why a start failed, as the process reports it.
    pub(super) refusal: Option<Refusal>,
    closing: bool,
}

#[derive(Debug, Default)]
pub(super) enum ProcessPhase {
    #[default]
    Starting,
    Serving,
    /// The process ended for this reason and is not started again, for a while or ever.
    Resting(String),
}

#[derive(Debug)]
struct WaitingJob {
    until: Instant,
    answer: Sender<JobOutcome>,
}

impl SharedState {
    /// Gives a job to the process, once it runs, and waits for the answer.
    pub(super) fn run_job(&self, payload: &[u8], deadline: Duration) -> JobOutcome {
        let (answer, answered) = channel();
        let (id, input) = {
            let mut state = self.settled();
            let Some(input) = state.input.clone() else {
                return JobOutcome::Refused(TextError::Resting(state.cause().to_owned()));
            };
            state.last_id += 1;
            let id = state.last_id;
            let until = Instant::now() + deadline;
            state.waiting.insert(id, WaitingJob { until, answer });
            (id, input)
        };
        // If this fails, the process has ended, and the supervisor answers instead.
        let mut input = input.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = wire::write(&mut *input, id, payload);
        drop(input);
        answered.recv().unwrap_or_else(|_| JobOutcome::Ended("its supervisor has ended".into()))
    }

    /// Ends the process for good.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.changed.notify_all();
    }

    pub(super) fn is_starting(&self) -> bool {
        matches!(self.lock().phase, ProcessPhase::Starting)
    }

    /// Why the process must end now. Jobs that took too long are told here.
    pub(super) fn reason_to_end(&self, now: Instant) -> Option<String> {
        let mut state = self.lock();
        let before = state.waiting.len();
        state.waiting.retain(|_, waiting| {
            let late = waiting.until <= now;
            if late {
                let _ = waiting.answer.send(JobOutcome::Late);
            }
            !late
        });
        let late = (state.waiting.len() < before).then(|| "a job took too long".to_owned());
        late.or_else(|| state.closing.then(|| "it is no longer needed".to_owned()))
    }

    /// The process has read the model's files.
    ///
    /// # Errors
    /// When the files are not those of the first start.
    pub(super) fn has_started(&self, facts: Vec<u8>) -> Result<(), FilesChanged> {
        let mut state = self.lock();
        if *state.facts.get_or_insert_with(|| facts.clone()) != facts {
            return Err(FilesChanged);
        }
        state.phase = ProcessPhase::Serving;
        self.changed.notify_all();
        Ok(())
    }

    /// The process cannot use the model's files.
    pub(super) fn has_refused(&self, refusal: Refusal) {
        self.lock().refusal = Some(refusal);
    }

    pub(super) fn answered(&self, id: u64, answer: TextReply) {
        let Some(waiting) = self.lock().waiting.remove(&id) else { return };
        let asked = match answer {
            TextReply::Tokens(tokens) => JobOutcome::Tokens(tokens),
            TextReply::Files(json) => JobOutcome::Files(json),
            TextReply::Refused(refusal) => JobOutcome::Refused(refusal.into()),
            TextReply::Facts(_) => return,
        };
        let _ = waiting.answer.send(asked);
    }

    /// Waits until the process has started, or has failed to.
    pub(super) fn settled(&self) -> MutexGuard<'_, ProcessState> {
        let starting = |state: &mut ProcessState| matches!(state.phase, ProcessPhase::Starting);
        self.changed.wait_while(self.lock(), starting).unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, input: PipeWriter) {
        let mut state = self.lock();
        state.phase = ProcessPhase::Starting;
        state.input = Some(Arc::new(Mutex::new(input)));
    }

    /// The process has ended. Returns whether it is to be started again.
    pub(super) fn has_ended(&self, cause: &str, rests: bool) -> bool {
        let mut state = self.lock();
        state.input = None;
        for (_, waiting) in std::mem::take(&mut state.waiting) {
            let _ = waiting.answer.send(JobOutcome::Ended(cause.to_owned()));
        }
        let again = state.facts.is_some() && !state.closing;
        state.phase = match again && !rests {
            true => ProcessPhase::Starting,
            false => ProcessPhase::Resting(cause.to_owned()),
        };
        self.changed.notify_all();
        again
    }

    /// Waits before the next start. Returns whether there is to be one.
    pub(super) fn wait_before_restart(&self, time: Duration) -> bool {
        let waiting = |state: &mut ProcessState| !state.closing;
        let rested = self.changed.wait_timeout_while(self.lock(), time, waiting);
        !rested.unwrap_or_else(PoisonError::into_inner).0.closing
    }

    fn lock(&self) -> MutexGuard<'_, ProcessState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProcessState {
    /// Why no process runs.
    pub(super) fn cause(&self) -> &str {
        match &self.phase {
            ProcessPhase::Resting(cause) => cause,
            ProcessPhase::Starting | ProcessPhase::Serving => "it is being started",
        }
    }
}

//! Keeps a text process running, and knows who waits for what.
//!
//! One thread starts the process, listens to it and starts it again; the kernel ends the process
//! with that thread, so nothing is orphaned. Those who ask wait for its word alone.

use super::running::{RunningProcess, TextProgram};
use super::wire::{self, Refusal, TextReply};
use super::{Deadlines, OnRestart};
use crate::text::{TextError, TextFacts};
use binfer_proto::Token;
use std::collections::{BTreeMap, VecDeque};
use std::io::PipeWriter;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Starts within [`STARTS_WITHIN`]: a model whose text ends the process again and again must not
/// keep the machine busy with that.
const STARTS_MAX: usize = 10;
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// How a job went.
#[derive(Debug)]
pub(super) enum JobOutcome {
    Tokens(Vec<Token>),
    Refused(TextError),
    /// The process ended while it had the job, by itself or because of another one.
    Ended(String),
    /// The process was ended because of this job.
    Late,
}

impl JobOutcome {
    /// What that means for a job that was alone.
    pub(super) fn into_result(self, deadline: Duration) -> Result<Vec<Token>, TextError> {
        let lost = |cause: String| {
            let cause = format!("this text cannot be made into tokens: {cause}");
            Err(TextError::Lost(cause))
        };
        match self {
            Self::Tokens(tokens) => Ok(tokens),
            Self::Refused(error) => Err(error),
            Self::Ended(cause) => lost(format!("the model's tokenizer was ended over it: {cause}")),
            Self::Late => lost(format!(
                "the model's tokenizer or template took more than {} s over it",
                deadline.as_secs_f32()
            )),
        }
    }
}

/// The state that those who ask share with the keeper.
#[derive(Debug, Default)]
pub(super) struct SharedState {
    state: Mutex<ProcessState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct ProcessState {
    phase: ProcessPhase,
    input: Option<Arc<Mutex<PipeWriter>>>,
    /// Of the last job; 0 is a process's own.
    last_id: u64,
    waiting: BTreeMap<u64, WaitingJob>,
    /// What the process said at its first start.
    facts: Option<Vec<u8>>,
    /// Why a start failed, in the process's words.
    refusal: Option<Refusal>,
    closing: bool,
}

#[derive(Debug, Default)]
enum ProcessPhase {
    #[default]
    Starting,
    Serving,
    /// It is not started again, for now or ever: the reason why it ended.
    Resting(String),
}

#[derive(Debug)]
struct WaitingJob {
    until: Instant,
    answer: Sender<JobOutcome>,
}

impl SharedState {
    /// Asks the process, once it runs, and waits for its answer.
    pub(super) fn ask(&self, payload: &[u8], deadline: Duration) -> JobOutcome {
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
        // If this fails, the process has ended, and the keeper says so.
        let mut input = input.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = wire::write(&mut *input, id, payload);
        drop(input);
        answered.recv().unwrap_or_else(|_| JobOutcome::Ended("nobody keeps it any more".into()))
    }

    /// Ends the process for good.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.changed.notify_all();
    }

    pub(super) fn is_starting(&self) -> bool {
        matches!(self.lock().phase, ProcessPhase::Starting)
    }

    /// Why the process must end now. Jobs that are late learn it here.
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
    pub(super) fn has_started(&self, facts: Vec<u8>) -> Result<(), String> {
        let mut state = self.lock();
        if *state.facts.get_or_insert_with(|| facts.clone()) != facts {
            return Err("the model's files are others than at the server's start".into());
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
            TextReply::Refused(refusal) => JobOutcome::Refused(refusal.into()),
            TextReply::Facts(_) => return,
        };
        let _ = waiting.answer.send(asked);
    }

    /// The state once the process has started, or has failed to.
    fn settled(&self) -> MutexGuard<'_, ProcessState> {
        let starting = |state: &mut ProcessState| matches!(state.phase, ProcessPhase::Starting);
        self.changed.wait_while(self.lock(), starting).unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, input: PipeWriter) {
        let mut state = self.lock();
        state.phase = ProcessPhase::Starting;
        state.input = Some(Arc::new(Mutex::new(input)));
    }

    /// The process has ended. Whether it is to be started again, unless that is now too often.
    fn has_ended(&self, cause: &str, rests: bool) -> bool {
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

    /// Waits before the next start. Whether there is to be one.
    fn rest(&self, time: Duration) -> bool {
        let waiting = |state: &mut ProcessState| !state.closing;
        let rested = self.changed.wait_timeout_while(self.lock(), time, waiting);
        !rested.unwrap_or_else(PoisonError::into_inner).0.closing
    }

    fn lock(&self) -> MutexGuard<'_, ProcessState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProcessState {
    /// Why no process is there.
    fn cause(&self) -> &str {
        match &self.phase {
            ProcessPhase::Resting(cause) => cause,
            ProcessPhase::Starting | ProcessPhase::Serving => "it is being started",
        }
    }
}

/// The thread that keeps the process.
pub(super) struct Supervisor {
    program: TextProgram,
    deadlines: Deadlines,
    on_restart: OnRestart,
    shared: Arc<SharedState>,
    /// The latest starts.
    starts: VecDeque<Instant>,
}

impl Supervisor {
    pub(super) fn new(program: TextProgram, deadlines: Deadlines, on_restart: OnRestart) -> Self {
        Self { program, deadlines, on_restart, shared: Arc::default(), starts: VecDeque::new() }
    }

    pub(super) fn shared(&self) -> Arc<SharedState> {
        Arc::clone(&self.shared)
    }

    /// Starts the process and waits for what it says of the model.
    pub(super) fn start(self) -> Result<TextFacts, TextError> {
        let shared = self.shared();
        let thread = std::thread::Builder::new().name("text-keeper".into());
        thread
            .spawn(move || self.supervise())
            .map_err(|error| TextError::Lost(format!("a thread cannot be started: {error}")))?;
        let mut state = shared.settled();
        if let Some(refusal) = state.refusal.take() {
            return Err(refusal.into());
        }
        match (&state.phase, &state.facts) {
            (ProcessPhase::Serving, Some(facts)) => serde_json::from_slice(facts)
                .map_err(|error| TextError::Lost(format!("the text process: {error}"))),
            _ => Err(TextError::Lost(format!(
                "the process that reads the model's tokenizer and template is lost: {}",
                state.cause()
            ))),
        }
    }

    fn supervise(mut self) {
        loop {
            let rest = self.rest_after_start();
            let cause = match RunningProcess::start(&self.program) {
                Ok((running, input)) => {
                    self.shared.begin(input);
                    running.run(&self.shared, self.deadlines)
                }
                Err(error) => format!("it cannot be started: {error}"),
            };
            let again = self.shared.has_ended(&cause, !rest.is_zero());
            if again {
                (self.on_restart)(&format!("the process that tokenises is started again: {cause}"));
            }
            if !again || !self.shared.rest(rest) {
                return;
            }
        }
    }

    /// Counts a start. How long there is to be none after the process has ended.
    fn rest_after_start(&mut self) -> Duration {
        let now = Instant::now();
        self.starts.push_back(now);
        self.starts.retain(|start| now.duration_since(*start) < STARTS_WITHIN);
        match self.starts.front().filter(|_| self.starts.len() >= STARTS_MAX) {
            Some(first) => STARTS_WITHIN.saturating_sub(now.duration_since(*first)),
            None => Duration::ZERO,
        }
    }
}

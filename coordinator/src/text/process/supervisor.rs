//! Keeps a text process running.
//!
//! One thread starts the process, listens to it and starts it again. The kernel ends the process
//! with that thread, so nothing is orphaned.

use super::config::Deadlines;
use super::running::{RunningProcess, TextProgram};
use super::shared::{ProcessPhase, SharedState};
use crate::text::{TextError, TextFacts};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Is told, in a line for people, that the process ended and why.
pub type OnRestart = Box<dyn Fn(&str) + Send>;

/// How often the process may start within [`STARTS_WITHIN`]. A model whose text ends the process
/// again and again must not keep the machine busy.
const STARTS_MAX: usize = 10;
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// The thread that keeps the process.
pub(super) struct Supervisor {
    program: TextProgram,
    deadlines: Deadlines,
    on_restart: OnRestart,
    shared: Arc<SharedState>,
    /// When the process was started recently.
    starts: VecDeque<Instant>,
}

impl Supervisor {
    pub(super) fn new(program: TextProgram, deadlines: Deadlines, on_restart: OnRestart) -> Self {
        Self { program, deadlines, on_restart, shared: Arc::default(), starts: VecDeque::new() }
    }

    pub(super) fn shared(&self) -> Arc<SharedState> {
        Arc::clone(&self.shared)
    }

    /// Starts the process and waits for the model's facts.
    pub(super) fn start(self) -> Result<TextFacts, TextError> {
        let shared = self.shared();
        let thread = std::thread::Builder::new().name("text-supervisor".into());
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
            if !again || !self.shared.wait_before_restart(rest) {
                return;
            }
        }
    }

    /// Counts a start. Returns how long the next one must wait once the process has ended.
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

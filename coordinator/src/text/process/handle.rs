//! The text process as the coordinator uses it.

use super::config::{Deadlines, TextConfig};
use super::running::TextProgram;
use super::shared::{JobDone, JobOutcome, SharedState};
use super::supervisor::{OnRestart, Supervisor};
use super::wire::{self, Job, TextJob};
use crate::text::{TextError, TextFacts, TokenizerFiles};
use binfer_proto::Token;
use std::borrow::Cow;
use std::sync::{Arc, PoisonError, RwLock};

/// A handle of the text process. Dropping it ends the process.
#[derive(Debug)]
pub struct TextProcess {
    shared: Arc<SharedState>,
    facts: Arc<TextFacts>,
    deadlines: Deadlines,
    /// Jobs share this lock; a job that may have ended the process takes it alone.
    turns: RwLock<()>,
}

impl TextProcess {
    /// Starts the process and waits until it has read the model's files.
    ///
    /// # Errors
    /// What is wrong with those files, or that reading them took too much memory or time.
    pub fn start(config: TextConfig, on_restart: OnRestart) -> Result<Self, TextError> {
        let deadlines = config.deadlines;
        Self::supervised(
            Supervisor::new(TextProgram::Process(config), deadlines, on_restart),
            deadlines,
        )
    }

    /// Starts the process without blocking the caller's runtime.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn started(config: TextConfig, on_restart: OnRestart) -> Result<Self, TextError> {
        let started = tokio::task::spawn_blocking(move || Self::start(config, on_restart)).await;
        started.unwrap_or_else(|error| Err(TextError::Lost(error.to_string())))
    }

    /// Speaks the same protocol with a thread of this process.
    #[cfg(test)]
    pub(crate) fn in_thread(model: Arc<crate::text::TextModel>) -> Self {
        let deadlines = Deadlines::default();
        let supervisor = Supervisor::new(TextProgram::Thread(model), deadlines, Box::new(|_| {}));
        Self::supervised(supervisor, deadlines).unwrap()
    }

    fn supervised(supervisor: Supervisor, deadlines: Deadlines) -> Result<Self, TextError> {
        let shared = supervisor.shared();
        let facts = Arc::new(supervisor.start()?);
        Ok(Self { shared, facts, deadlines, turns: RwLock::new(()) })
    }

    /// What the coordinator knows of the model's text.
    pub fn facts(&self) -> &Arc<TextFacts> {
        &self.facts
    }

    /// Does a job. It blocks for at most twice the deadlines of the job and of a start.
    ///
    /// # Errors
    /// Why the model refuses the job, or how the process ended over it.
    pub fn encode(&self, job: &TextJob) -> Result<Vec<Token>, TextError> {
        match self.run(&Job::Text(Cow::Borrowed(job)))? {
            JobDone::Tokens(tokens) => Ok(tokens),
            JobDone::Files(_) => Err(unasked()),
        }
    }

    /// The files that make another program read texts as this model does. It blocks like
    /// [`Self::encode`].
    ///
    /// # Errors
    /// When the tokenizer cannot be written down, or how the process ended over it.
    pub fn files(&self) -> Result<TokenizerFiles, TextError> {
        match self.run(&Job::Files)? {
            JobDone::Files(json) => serde_json::from_slice(&json).map_err(|_| unasked()),
            JobDone::Tokens(_) => Err(unasked()),
        }
    }

    fn run(&self, job: &Job<'_>) -> Result<JobDone, TextError> {
        let payload = wire::job_payload(job)?;
        let deadline = self.deadlines.of_job(payload.len());
        let asked = {
            let _with_others = self.turns.read().unwrap_or_else(PoisonError::into_inner);
            self.shared.run_job(&payload, deadline)
        };
        match asked {
            // Another job may have ended the process. This one is tried again alone.
            JobOutcome::Ended(_) => {}
            asked => return asked.into_result(deadline),
        }
        let _alone = self.turns.write().unwrap_or_else(PoisonError::into_inner);
        self.shared.run_job(&payload, deadline).into_result(deadline)
    }
}

fn unasked() -> TextError {
    TextError::Lost("the text process answered another question".into())
}

impl Drop for TextProcess {
    fn drop(&mut self) {
        self.shared.close();
    }
}

//! Text to tokens, in a process of its own.
//!
//! Tokenizers and chat templates come with models, and libraries run them: their data can make
//! such code grow without bound, run for minutes, overflow its stack or panic. So it runs in one
//! child, `binfer text`, under limits of memory ([`limits`]) and time ([`Deadlines`]). A panic is
//! an error of the request at hand. An overrun ends the child, which is started again: the request
//! that caused it gets an error, others are asked once more, one at a time, so that each is judged
//! by itself.
//!
//! Deliberately absent: a second way. `run` and `serve` encode here; only tests, and `bench` about
//! vocabularies, use a [`TextModel`](super::TextModel) in their own process.

mod limits;
mod role;
mod running;
mod supervisor;
#[cfg(test)]
mod tests;
mod wire;

pub use role::{TextArgs, run};

use super::{Message, TextError, TextFacts};
use binfer_proto::Token;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use supervisor::{JobOutcome, SharedState, Supervisor};

/// Jobs that a text process does at the same time.
pub const JOBS_AT_ONCE: usize = 4;

/// Where a model's text is described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextSource {
    /// The files of a Hugging Face folder.
    Folder(PathBuf),
    /// A GGUF file, or shards of one.
    Gguf(PathBuf),
    /// Nowhere: tokens are numbers below this, for measurements.
    Numbers(Token),
}

impl TextSource {
    /// That of an opened model.
    pub fn of(source: &binfer_shard::Checkpoint) -> Self {
        match source.folder() {
            Some(folder) => Self::Folder(folder.to_owned()),
            None => Self::Gguf(source.path().to_owned()),
        }
    }
}

/// What is to become tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TextJob {
    /// A plain text; control tokens in it are recognised.
    Prompt {
        /// The text.
        text: String,
        /// A text that cannot be as few tokens as this is refused.
        tokens_max: u32,
    },
    /// A conversation, to be rendered by the model's chat template.
    Chat {
        /// Its messages.
        messages: Vec<Message>,
        /// A rendered text that cannot be as few tokens as this is refused.
        tokens_max: u32,
    },
}

/// How long a text process may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// For its start.
    pub start: Duration,
    /// For a job.
    pub job: Duration,
    /// For each megabyte of a job beside that.
    pub job_megabyte: Duration,
}

impl Default for Deadlines {
    /// Some ten times of what the slowest known tokenizer takes on a busy machine.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { start: seconds(120), job: seconds(10), job_megabyte: seconds(20) }
    }
}

impl Deadlines {
    fn of_job(&self, bytes: usize) -> Duration {
        let megabytes = u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX);
        self.job.saturating_add(self.job_megabyte.saturating_mul(megabytes))
    }
}

/// What a text process is started with.
#[derive(Clone, Debug)]
pub struct TextConfig {
    /// The program that has the role.
    pub program: PathBuf,
    /// What it reads.
    pub source: TextSource,
    /// Control tokens in messages of a chat are text.
    pub split_special_tokens: bool,
    /// How long it may take.
    pub deadlines: Deadlines,
}

/// Hears, in a line for people, that the process has ended and why.
pub type OnRestart = Box<dyn Fn(&str) + Send>;

/// The text process, as the coordinator sees it. Dropping it ends the process.
#[derive(Debug)]
pub struct TextProcess {
    shared: Arc<SharedState>,
    facts: Arc<TextFacts>,
    deadlines: Deadlines,
    /// Jobs run together; one that may have ended the process runs alone.
    turns: RwLock<()>,
}

impl TextProcess {
    /// Starts the process and waits until it has read the model's files.
    ///
    /// # Errors
    /// What is wrong with those files, also when reading them takes more than they may.
    pub fn start(config: TextConfig, on_restart: OnRestart) -> Result<Self, TextError> {
        let deadlines = config.deadlines;
        Self::supervised(
            Supervisor::new(running::TextProgram::Process(config), deadlines, on_restart),
            deadlines,
        )
    }

    /// The same, beside other tasks of the caller's thread.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn started(config: TextConfig, on_restart: OnRestart) -> Result<Self, TextError> {
        let started = tokio::task::spawn_blocking(move || Self::start(config, on_restart)).await;
        started.unwrap_or_else(|error| Err(TextError::Lost(error.to_string())))
    }

    /// The same protocol with a thread in the process's place.
    #[cfg(test)]
    pub(crate) fn in_thread(model: Arc<super::TextModel>) -> Self {
        let deadlines = Deadlines::default();
        let supervisor =
            Supervisor::new(running::TextProgram::Thread(model), deadlines, Box::new(|_| {}));
        Self::supervised(supervisor, deadlines).unwrap()
    }

    fn supervised(supervisor: Supervisor, deadlines: Deadlines) -> Result<Self, TextError> {
        let shared = supervisor.shared();
        let facts = Arc::new(supervisor.start()?);
        Ok(Self { shared, facts, deadlines, turns: RwLock::new(()) })
    }

    /// What the model's files say beside how to encode.
    pub fn facts(&self) -> &Arc<TextFacts> {
        &self.facts
    }

    /// Does a job. Blocks, at most for the deadline of such a job and of a start, twice.
    ///
    /// # Errors
    /// What the model says of the job, or what its code did to the process.
    pub fn encode(&self, job: &TextJob) -> Result<Vec<Token>, TextError> {
        let payload = wire::job_payload(job)?;
        let deadline = self.deadlines.of_job(payload.len());
        let asked = {
            let _with_others = self.turns.read().unwrap_or_else(PoisonError::into_inner);
            self.shared.ask(&payload, deadline)
        };
        match asked {
            // Perhaps another job ended the process: this one is asked again, alone.
            JobOutcome::Ended(_) => {}
            asked => return asked.into_result(deadline),
        }
        let _alone = self.turns.write().unwrap_or_else(PoisonError::into_inner);
        self.shared.ask(&payload, deadline).into_result(deadline)
    }
}

impl Drop for TextProcess {
    fn drop(&mut self) {
        self.shared.close();
    }
}

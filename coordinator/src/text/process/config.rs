//! What a text process is started with.

use binfer_proto::Token;
use std::path::PathBuf;
use std::time::Duration;

/// Where a model's tokenizer and chat template come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextSource {
    /// The files of a Hugging Face folder.
    Folder(PathBuf),
    /// A GGUF file, or shards of one.
    Gguf(PathBuf),
    /// No file, for measurements: the tokens are the numbers below this.
    Numbers(Token),
}

impl TextSource {
    /// The source of an opened checkpoint.
    pub fn of(source: &binfer_shard::Checkpoint) -> Self {
        match source.folder() {
            Some(folder) => Self::Folder(folder.to_owned()),
            None => Self::Gguf(source.path().to_owned()),
        }
    }
}

/// How long a text process may take for its work.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// The time for its start.
    pub start: Duration,
    /// The time for a job.
    pub job: Duration,
    /// The time that each megabyte of a job adds.
    pub job_megabyte: Duration,
}

impl Default for Deadlines {
    /// About ten times what the slowest known tokenizer takes on a busy machine.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { start: seconds(120), job: seconds(10), job_megabyte: seconds(20) }
    }
}

impl Deadlines {
    pub(super) fn of_job(&self, bytes: usize) -> Duration {
        let megabytes = u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX);
        self.job.saturating_add(self.job_megabyte.saturating_mul(megabytes))
    }
}

/// The settings of a text process.
#[derive(Clone, Debug)]
pub struct TextConfig {
    /// The program, which is run with the argument `text`.
    pub program: PathBuf,
    /// What the process reads.
    pub source: TextSource,
    /// Control tokens in messages of a chat are text.
    pub split_special_tokens: bool,
    /// How long the process may take.
    pub deadlines: Deadlines,
}

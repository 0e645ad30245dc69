//! What fronts know: facts about the model, the server's state, and the core's bounds.

use crate::text::ReasoningFormat;
use crate::text::process::JOBS_AT_ONCE;
use binfer_proto::{Sampling, Token};
use std::fmt;
use std::time::Duration;

/// Facts about the served model.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// The name that clients use.
    pub name: String,
    /// Positions in a sequence, prompt and answer together, unless the cache holds fewer: see
    /// [`Core::context_max`](super::Core::context_max).
    pub context_max: u32,
    /// Token ids are below this.
    pub vocab: u32,
    /// Tokens that end an answer.
    pub end_ids: Vec<Token>,
    /// How tokens are sampled where a request does not say it.
    pub sampling: Sampling,
    /// How answers in chats tell reasoning from content.
    pub reasoning: ReasoningFormat,
    /// Digest of the weights, which keeps cached blocks of different ones apart.
    pub weights: u64,
    /// When the server started, in Unix seconds.
    pub created: u64,
}

/// Whether requests can be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Requests are not taken yet. The text says what is being done.
    Starting(String),
    /// Requests are taken.
    Ready,
    /// Requests are no longer taken: the server is shutting down.
    Draining,
    /// Requests are no longer taken: a rank is lost. The text names it and the cause.
    Lost(String),
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting(what) => write!(f, "the server is starting: {what}"),
            Self::Ready => f.write_str("ready"),
            Self::Draining => f.write_str("the server is shutting down"),
            Self::Lost(cause) => f.write_str(cause),
        }
    }
}

/// Messages in a chat.
pub const MESSAGES_MAX: usize = 4096;
/// Stop strings of a request.
pub const STOP_STRINGS_MAX: usize = 16;

/// Stop tokens of a request.
pub const STOP_TOKENS_MAX: usize = 256;

/// Choices of a request: OpenAI's limit.
pub const CHOICES_MAX: u32 = 128;

/// Bounds of the request core.
#[derive(Clone, Debug)]
pub struct CoreLimits {
    /// Bytes of a prompt, whatever its tokenizer makes of them.
    pub prompt_bytes_max: usize,
    /// Messages in a chat.
    pub messages_max: usize,
    /// Stop strings of a request.
    pub stop_strings_max: usize,
    /// Bytes of a stop string.
    pub stop_string_bytes_max: usize,
    /// Bytes of a salt of the prefix cache.
    pub cache_salt_bytes_max: usize,
    /// Prompts tokenised at the same time.
    pub tokenizing_max: usize,
    /// Prompts that may wait to be tokenised.
    pub tokenizing_queue_max: usize,
    /// How long a refused client is told to wait.
    pub retry_after: Duration,
}

impl Default for CoreLimits {
    fn default() -> Self {
        Self {
            prompt_bytes_max: 4 << 20,
            messages_max: MESSAGES_MAX,
            stop_strings_max: STOP_STRINGS_MAX,
            stop_string_bytes_max: 256,
            cache_salt_bytes_max: 1024,
            tokenizing_max: JOBS_AT_ONCE,
            tokenizing_queue_max: 4096,
            retry_after: Duration::from_secs(1),
        }
    }
}

/// Default cap on unread text over all requests.
pub const UNREAD_BYTES_MAX: u64 = 64 << 20;

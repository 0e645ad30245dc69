//! Why a request was not taken.
//!
//! The core says which field is at fault and what is wrong with it. A front names the field as its
//! protocol does, and gives the error the status that its clients know.

use crate::metrics::RefusalCause;
use binfer_proto::{SamplingError, SamplingField};
use std::fmt;
use std::time::Duration;

/// A field of a request, whatever a protocol calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// What is to be continued: a text, tokens or a conversation.
    Prompt,
    /// The length of the answer.
    MaxTokens,
    /// How many answers there are.
    Choices,
    /// The least length of the answer.
    MinTokens,
    /// Texts at which the answer ends.
    Stop,
    /// Tokens at which the answer ends.
    StopTokens,
    /// How many tokens of a prompt are kept.
    PromptTokens,
    /// The salt of the prefix cache.
    CacheSalt,
    /// A parameter of sampling.
    Sampling(SamplingField),
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prompt => f.write_str("the prompt"),
            Self::MaxTokens => f.write_str("the maximum of tokens"),
            Self::Choices => f.write_str("the number of choices"),
            Self::MinTokens => f.write_str("the minimum of tokens"),
            Self::Stop => f.write_str("the list of stop strings"),
            Self::StopTokens => f.write_str("the list of stop tokens"),
            Self::PromptTokens => f.write_str("the number of prompt tokens to keep"),
            Self::CacheSalt => f.write_str("the cache's salt"),
            Self::Sampling(field) => field.fmt(f),
        }
    }
}

/// What is wrong with one field of a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {cause}")]
pub struct FieldError {
    /// The field at fault.
    pub field: Field,
    /// What is wrong and what is allowed, in words that follow the field's name.
    pub cause: String,
}

impl FieldError {
    pub(crate) fn new(field: Field, cause: impl Into<String>) -> Self {
        Self { field, cause: cause.into() }
    }
}

impl From<SamplingError> for FieldError {
    fn from(error: SamplingError) -> Self {
        Self { field: Field::Sampling(error.field), cause: error.cause }
    }
}

impl SubmitError {
    /// What it counts as.
    pub fn cause(&self) -> RefusalCause {
        match self {
            Self::Invalid(_) => RefusalCause::Invalid,
            Self::Template(_) => RefusalCause::Template,
            Self::TooLong { .. } => RefusalCause::TooLong,
            Self::Busy { .. } => RefusalCause::Busy,
            Self::Unavailable { .. } => RefusalCause::Unavailable,
            Self::Failed { .. } => RefusalCause::Failed,
        }
    }

    /// The message for a client whose protocol calls fields by `name`.
    pub fn message<'a>(&self, name: impl Fn(Field) -> &'a str) -> String {
        match self {
            Self::Invalid(error) => format!("{} {}", name(error.field), error.cause),
            // Words that OpenAI's clients know come first.
            Self::TooLong { context_max, error } => format!(
                "this model's maximum context length is {context_max} tokens, but {} {}",
                name(error.field),
                error.cause
            ),
            other => other.to_string(),
        }
    }
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The request cannot be served as it is.
    #[error(transparent)]
    Invalid(#[from] FieldError),
    /// The model's chat template refuses the conversation, or is wrong.
    #[error("{0}")]
    Template(String),
    /// Prompt and answer are longer than the context, and a client may shorten them.
    #[error("a sequence has {context_max} tokens at most, but {error}")]
    TooLong {
        /// Tokens of a sequence, prompt and answer together.
        context_max: u32,
        /// Which of the two is too long, and how long it may be.
        error: FieldError,
    },
    /// Too much is being done already. The same request may be taken later.
    #[error("{message}")]
    Busy {
        /// What is full.
        message: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// The server does not take requests yet, or not any more.
    #[error("{message}")]
    Unavailable {
        /// Why it does not.
        message: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// A defect of binfer or of the model's files.
    #[error("{message}")]
    Failed {
        /// What failed.
        message: String,
    },
}

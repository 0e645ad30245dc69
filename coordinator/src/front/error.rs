//! Why a request was not taken. Fronts translate it; the core has written the message.

use std::time::Duration;

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The request cannot be served as it is.
    #[error("{message}")]
    Invalid {
        /// The field at fault, by its name in the API.
        param: &'static str,
        /// What is wrong and what is allowed.
        message: String,
    },
    /// Prompt and answer are longer than the context, and a client may shorten them.
    #[error("{message}")]
    TooLong {
        /// The field at fault, by its name in the API.
        param: &'static str,
        /// How long it is, and how long it may be.
        message: String,
    },
    /// Too much to do; later is fine.
    #[error("{message}")]
    Busy {
        /// What is full.
        message: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// Not ready, or not any more.
    #[error("{message}")]
    Unavailable {
        /// Why.
        message: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// A defect of ours or of the model's files.
    #[error("{message}")]
    Failed {
        /// What failed.
        message: String,
    },
}

impl SubmitError {
    pub(crate) fn invalid(param: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { param, message: message.into() }
    }

    /// Words that OpenAI's clients know come first.
    pub(crate) fn too_long(param: &'static str, context_max: u32, but: &str) -> Self {
        let message =
            format!("this model's maximum context length is {context_max} tokens, but {but}");
        Self::TooLong { param, message }
    }
}

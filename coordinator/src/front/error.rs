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
}

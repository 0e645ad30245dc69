//! What a client hears that the core does not serve.

use super::core::Core;
use super::error::{Field, FieldError, SubmitError};
use super::info::Readiness;
use crate::sched::Refused;
use crate::text::TextError;

impl Core {
    /// The result of a part of a request's way, counted if it is a refusal.
    pub(super) fn counted<T>(&self, result: Result<T, SubmitError>) -> Result<T, SubmitError> {
        result.inspect_err(|error| self.metrics().refused(error.cause()))
    }

    pub(super) fn check_ready(&self) -> Result<(), SubmitError> {
        match self.readiness() {
            Readiness::Ready => Ok(()),
            not_ready => Err(self.unavailable(&not_ready.to_string())),
        }
    }

    pub(super) fn refusal(&self, why: &Refused) -> SubmitError {
        let prompt = |cause: String| FieldError::new(Field::Prompt, cause);
        match why {
            Refused::QueueFull { .. } => self.busy(&why.to_string()),
            Refused::Draining => self.unavailable(&why.to_string()),
            Refused::Duplicate(_) => SubmitError::Failed { message: why.to_string() },
            Refused::Sampling(error) => FieldError::from(error.clone()).into(),
            Refused::NothingToGenerate => {
                FieldError::new(Field::MaxTokens, "must be at least 1").into()
            }
            Refused::TooLong { prompt: tokens, .. } => self.too_long(prompt(format!(
                "has {tokens} tokens, which leaves no room for an answer"
            ))),
            Refused::NeverFits { kv_group, needed, blocks } => self.too_long(prompt(format!(
                "needs {needed} blocks of KV group {kv_group} with its answer, which has {blocks}"
            ))),
            Refused::EmptyPrompt => prompt("holds no token".into()).into(),
        }
    }

    pub(super) fn not_encoded(&self, error: TextError) -> SubmitError {
        match error {
            TextError::TooLong(cause) => {
                self.too_long(FieldError::new(Field::Prompt, format!("has {cause}")))
            }
            TextError::Template(cause) => SubmitError::Template(cause),
            TextError::Resting(_) => self.unavailable(&error.to_string()),
            error => SubmitError::Failed { message: error.to_string() },
        }
    }

    pub(super) fn too_long(&self, error: FieldError) -> SubmitError {
        SubmitError::TooLong { context_max: self.context_max(), error }
    }

    pub(super) fn busy(&self, message: &str) -> SubmitError {
        let retry_after = self.limits().retry_after;
        SubmitError::Busy { message: message.to_owned(), retry_after }
    }

    pub(super) fn unavailable(&self, message: &str) -> SubmitError {
        let retry_after = self.limits().retry_after;
        SubmitError::Unavailable { message: message.to_owned(), retry_after }
    }
}

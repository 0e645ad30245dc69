//! Runs the tokenizers library over data from a model's files.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Why the library does not build a tokenizer from a model's data.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The library refused the data.
    #[error("{0}")]
    Refused(tokenizers::Error),
    /// The library panicked over the data.
    #[error("its data contradict themselves")]
    Panicked,
}

/// Runs `build`. Data that contradict themselves can make the library panic, which is an error
/// here.
pub(super) fn guarded<T>(
    build: impl FnOnce() -> tokenizers::Result<T>,
) -> Result<T, TokenizerError> {
    match catch_unwind(AssertUnwindSafe(build)) {
        Ok(built) => built.map_err(TokenizerError::Refused),
        Err(_) => Err(TokenizerError::Panicked),
    }
}

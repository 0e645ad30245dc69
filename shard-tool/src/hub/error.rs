//! The errors of the hub and its cache, by what the user can do about them.

use std::io;
use std::path::{Path, PathBuf};

/// Why a model was not found in the hub or its cache, or could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The hub has no such model, revision or file.
    #[error("{0}")]
    Absent(String),
    /// The hub wants a token, or does not let this one in.
    #[error("{0}")]
    Refused(String),
    /// The model is there, but not in a form that can be served, or the request makes no sense.
    #[error("{0}")]
    Unfit(String),
    /// The hub may not be asked, and the cache does not have the model.
    #[error("{0}")]
    Offline(String),
    /// There is no lasting connection, or the hub is overloaded or broken.
    #[error("{0}")]
    Unreachable(String),
    /// The hub's answer makes no sense.
    #[error("{0}")]
    Answer(String),
    /// The bytes that arrived are not those that the hub announced.
    #[error("{0}")]
    Damaged(String),
    /// The model's settings or headers are wrong, or not supported.
    #[error(transparent)]
    Model(#[from] crate::Error),
    /// The cache cannot be read or written.
    #[error("{path}: {error}; HF_HOME can name another folder", path = .path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

impl HubError {
    /// Makes errors of the system about `path` errors of the cache.
    pub(super) fn cache(path: &Path) -> impl Fn(io::Error) -> Self {
        move |error| Self::Cache { path: path.to_path_buf(), error }
    }
}

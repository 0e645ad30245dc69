//! What can go wrong between here and the hub, by what a person would do about it.

use std::io;
use std::path::{Path, PathBuf};

/// Why a model could not be had from the hub or its cache.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// No such model, revision or file.
    #[error("{0}")]
    Absent(String),
    /// The hub wants a token, or does not let this one in.
    #[error("{0}")]
    Refused(String),
    /// The model is there, but not in a form that can be served; or the request makes no sense.
    #[error("{0}")]
    Unfit(String),
    /// Offline mode, and the cache does not have it.
    #[error("{0}")]
    Offline(String),
    /// No connection, or none that lasts; the hub is overloaded or broken.
    #[error("{0}")]
    Unreachable(String),
    /// The hub answered what a hub cannot answer.
    #[error("{0}")]
    Answer(String),
    /// What arrived is not what the hub announced.
    #[error("{0}")]
    Damaged(String),
    /// The model's settings or headers are wrong, or not supported.
    #[error(transparent)]
    Model(#[from] crate::Error),
    /// The cache cannot be read or written.
    #[error("{path}: {error}; HF_HOME can name another folder", path = .path.display())]
    Cache {
        /// Where.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
}

impl HubError {
    pub(super) fn cache(path: &Path) -> impl Fn(io::Error) -> Self {
        move |error| Self::Cache { path: path.to_path_buf(), error }
    }
}

//! Errors of devices and of the operations on them.

/// Why an operation could not run.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// An argument breaks the operation's contract, which is a bug of ours, never a client's.
    #[error("{operation}: {cause}")]
    Args {
        /// The operation.
        operation: &'static str,
        /// What is wrong.
        cause: String,
    },
    /// The device lacks what the model needs.
    #[error("{operation}: this device has no kernel for {what}")]
    NoKernel {
        /// The operation.
        operation: &'static str,
        /// What there is no kernel for.
        what: String,
    },
    /// A collective was given up because a peer is gone or the supervisor said so.
    #[error("{operation}: collective aborted")]
    Aborted {
        /// The operation.
        operation: &'static str,
    },
    /// A device or its driver refused a call.
    #[error("{call}: {cause}")]
    Device {
        /// The driver's name of the call.
        call: &'static str,
        /// What the driver said.
        cause: String,
    },
    /// A weight could not be read.
    #[error(transparent)]
    Load(Box<binfer_shard::Error>),
    /// The host refused a resource.
    #[error("{operation}: {source}")]
    Io {
        /// The operation.
        operation: &'static str,
        /// What the host said.
        source: std::io::Error,
    },
}

impl From<binfer_shard::Error> for BackendError {
    fn from(error: binfer_shard::Error) -> Self {
        Self::Load(Box::new(error))
    }
}

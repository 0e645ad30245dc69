//! Errors of the core as statuses: the messages are HTTP's, the codes those that gateways map back
//! to HTTP's statuses.

use crate::front::{FailKind, Field, SubmitError};
use tonic::Status;

/// The status of a request that was not taken and calls its fields by `name`.
pub(super) fn of_submit<'a>(error: &SubmitError, name: impl Fn(Field) -> &'a str) -> Status {
    let message = error.message(name);
    match error {
        SubmitError::Invalid(_) | SubmitError::Template(_) | SubmitError::TooLong { .. } => {
            Status::invalid_argument(message)
        }
        SubmitError::Busy { .. } => Status::resource_exhausted(message),
        SubmitError::Unavailable { .. } => Status::unavailable(message),
        SubmitError::Failed { .. } => Status::internal(message),
    }
}

/// The status of a request that failed after it was taken.
pub(super) fn failed(kind: FailKind, message: String) -> Status {
    match kind {
        FailKind::WorkerLost
        | FailKind::Shutdown
        | FailKind::QueueTimeout
        | FailKind::SlowReader => Status::unavailable(message),
        FailKind::NonFinite | FailKind::Internal => Status::internal(message),
    }
}

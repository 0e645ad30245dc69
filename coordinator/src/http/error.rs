//! Errors in the format that OpenAI's clients know, with their statuses.

use super::endpoint::FieldNames;
use crate::front::{FailKind, Field, SubmitError};
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::time::Duration;

/// An error as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) message: String,
    /// The field at fault.
    pub(super) param: Option<String>,
    pub(super) code: Option<&'static str>,
    pub(super) retry_after: Option<Duration>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None, retry_after: None }
    }

    /// The request cannot be served as it is: `param` is at fault.
    pub(super) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let param = Some(param.into());
        Self { param, ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    pub(super) fn failed(kind: FailKind, message: String) -> Self {
        let status = match kind {
            FailKind::WorkerLost
            | FailKind::Shutdown
            | FailKind::QueueTimeout
            | FailKind::SlowReader => StatusCode::SERVICE_UNAVAILABLE,
            FailKind::NonFinite | FailKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let code = Some(match kind {
            FailKind::WorkerLost => "worker_lost",
            FailKind::Shutdown => "shutdown",
            FailKind::QueueTimeout => "queue_timeout",
            FailKind::SlowReader => "slow_reader",
            FailKind::NonFinite => "non_finite",
            FailKind::Internal => "internal",
        });
        Self { code, ..Self::new(status, message) }
    }

    /// `{"error": {...}}`, as OpenAI's clients know it, with the id of the request.
    pub(super) fn json(&self, request_id: &str) -> Value {
        let kind = match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "service_unavailable_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let Self { message, param, code, .. } = self;
        json!({ "error": {
            "message": message, "type": kind, "param": param, "code": code,
            "request_id": request_id,
        } })
    }

    /// An error of the core, about a request that calls its fields by `names`.
    pub(super) fn of_submit(error: SubmitError, names: FieldNames) -> Self {
        let message = error.message(|field| names.name(field));
        match error {
            SubmitError::Invalid(error) => Self::invalid(names.name(error.field), message),
            SubmitError::Template(_) => Self::invalid(names.name(Field::Prompt), message),
            SubmitError::TooLong { error, .. } => Self {
                code: Some("context_length_exceeded"),
                ..Self::invalid(names.name(error.field), message)
            },
            SubmitError::Busy { retry_after, .. } => Self {
                retry_after: Some(retry_after),
                code: Some("queue_full"),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, message)
            },
            SubmitError::Unavailable { retry_after, .. } => Self {
                retry_after: Some(retry_after),
                ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
            },
            SubmitError::Failed { .. } => Self::new(StatusCode::INTERNAL_SERVER_ERROR, message),
        }
    }
}

/// A response without a body: [`super::request_id::carry`] writes it, with the request's id.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        response.extensions_mut().insert(self);
        response
    }
}

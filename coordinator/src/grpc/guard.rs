//! Who may ask, over gRPC: the rules of HTTP, with gRPC's statuses.

use super::is_for_health;
use crate::front::ApiKeys;
use crate::transport::{AccessDenied, AccessGuard};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use tonic::Status;

/// What callers are checked by.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) access: AccessGuard,
    pub(super) keys: Arc<ApiKeys>,
}

/// Lets only calls pass that are calls, and whose callers may ask.
pub(super) async fn admitted(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    if request.version() != Version::HTTP_2 {
        let message = "this port speaks gRPC, over HTTP/2; the OpenAI API is on --port\n";
        return (StatusCode::HTTP_VERSION_NOT_SUPPORTED, message).into_response();
    }
    let kind = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if !kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    match guard.check(&request) {
        Ok(()) => next.run(request).await,
        Err(status) => status.into_http(),
    }
}

impl Guard {
    fn check(&self, request: &Request) -> Result<(), Status> {
        self.access.check(request).map_err(|denied| match denied {
            AccessDenied::Malformed(_) => Status::invalid_argument(denied.to_string()),
            AccessDenied::Forbidden(_) => Status::permission_denied(denied.to_string()),
        })?;
        if is_for_health(request.uri().path()) {
            return Ok(());
        }
        let lines = request.headers().get_all(header::AUTHORIZATION).iter();
        let shown = self.keys.check(lines.map(HeaderValue::as_bytes));
        shown.map_err(|refusal| Status::unauthenticated(refusal.to_string()))
    }
}

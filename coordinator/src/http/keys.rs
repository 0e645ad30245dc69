//! Keys of clients over HTTP.

use super::error::ApiError;
use crate::front::{ApiKeys, KeyRefusal};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// Lets only those pass who show a key.
pub(super) async fn admit(
    State(keys): State<Arc<ApiKeys>>,
    request: Request,
    next: Next,
) -> Response {
    let lines = request.headers().get_all(header::AUTHORIZATION).iter();
    match keys.check(lines.map(HeaderValue::as_bytes)) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refused(refusal),
    }
}

fn refused(refusal: KeyRefusal) -> Response {
    let error = ApiError {
        code: Some("invalid_api_key"),
        ..ApiError::new(StatusCode::UNAUTHORIZED, refusal.to_string())
    };
    let mut response = error.into_response();
    let scheme = HeaderValue::from_static("Bearer");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    response
}

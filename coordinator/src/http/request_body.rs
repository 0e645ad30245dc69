//! The body of a request over HTTP: JSON, and the API's errors for what is refused.

use super::config::HttpConfig;
use super::error::ApiError;
use crate::transport::{BodyLimits, BodyMemory, BodyRefusal, ReceivedBody};
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Request, StatusCode};
use std::time::Duration;

/// Reads all of a body, which must be JSON: a web page can send other types to any server without
/// asking first.
pub(super) async fn read<'a>(
    request: Request<Body>,
    config: &HttpConfig,
    memory: &'a BodyMemory,
) -> Result<ReceivedBody<'a>, ApiError> {
    if !is_json(request.headers()) {
        let message = "the body must be JSON, with the header Content-Type: application/json";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let limits = BodyLimits { bytes_max: config.body_bytes_max, timeout: config.body_timeout };
    ReceivedBody::read(request, limits, memory).await.map_err(refused)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/json")
}

fn refused(refusal: BodyRefusal) -> ApiError {
    let (status, retry_after) = match refusal {
        BodyRefusal::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, None),
        BodyRefusal::TooMany => (StatusCode::TOO_MANY_REQUESTS, Some(Duration::from_secs(1))),
        BodyRefusal::Cut => (StatusCode::BAD_REQUEST, None),
        BodyRefusal::Late { .. } => (StatusCode::REQUEST_TIMEOUT, None),
    };
    ApiError { retry_after, ..ApiError::new(status, refusal.to_string()) }
}

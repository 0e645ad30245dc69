//! Reads the body of a request within limits of size and time.

use super::config::Config;
use super::error::ApiError;
use axum::body::Body;
use axum::http::StatusCode;
use http_body::Body as _;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// Bodies up to this size are taken on any connection; longer ones at the same time are counted.
const SMALL_BYTES_MAX: usize = 64 << 10;

/// A body above the limit is read and dropped up to this many times the limit, because a client
/// that is still writing would not see the answer.
const DISCARD_FACTOR: usize = 4;

/// `large` has a permit for each body above [`SMALL_BYTES_MAX`] that may be held at a time.
pub(super) async fn read(
    body: Body,
    config: &Config,
    large: &Semaphore,
) -> Result<Vec<u8>, ApiError> {
    match timeout(config.body_timeout, read_all(body, config.body_bytes_max, large)).await {
        Ok(result) => result,
        Err(_) => {
            let seconds = config.body_timeout.as_secs();
            let message = format!("the body did not arrive within {seconds} s");
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}

async fn read_all(
    mut body: Body,
    bytes_max: usize,
    large: &Semaphore,
) -> Result<Vec<u8>, ApiError> {
    let discard_max = bytes_max.saturating_mul(DISCARD_FACTOR);
    let promised = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if promised > discard_max {
        return Err(too_large(bytes_max));
    }
    let mut bytes = Vec::with_capacity(promised.min(SMALL_BYTES_MAX));
    let mut seen = 0_usize;
    let mut permit: Option<SemaphorePermit<'_>> = None;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(frame) = frame else {
            let message = "the body ended before it was complete";
            return Err(ApiError::new(StatusCode::BAD_REQUEST, message));
        };
        let Ok(data) = frame.into_data() else { continue };
        seen = seen.saturating_add(data.len());
        if seen > discard_max {
            break;
        }
        if seen <= bytes_max {
            if seen > SMALL_BYTES_MAX && permit.is_none() {
                permit = Some(large.try_acquire().map_err(|_| too_many())?);
            }
            bytes.extend_from_slice(&data);
        } else {
            bytes = Vec::new();
        }
    }
    if seen > bytes_max { Err(too_large(bytes_max)) } else { Ok(bytes) }
}

fn too_many() -> ApiError {
    let message = "too many long requests arrive at once";
    let retry_after = Some(Duration::from_secs(1));
    ApiError { retry_after, ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, message) }
}

fn too_large(bytes_max: usize) -> ApiError {
    let message = format!("the body may have {bytes_max} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

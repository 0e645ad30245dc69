//! The body of a request. It is read within limits of size, time and memory, or refused and
//! dropped.

use super::config::HttpConfig;
use super::error::ApiError;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Request, StatusCode, Version};
use http_body::Body as _;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// Bodies up to this size are always taken. Longer ones count against
/// [`HttpConfig::body_memory_bytes`].
const SMALL_BYTES_MAX: usize = 64 << 10;
/// The bytes that a permit of [`BodyMemory`] stands for.
const UNIT_BYTES: usize = 4 << 10;

/// Memory for long bodies, shared by all connections.
#[derive(Debug)]
pub(super) struct BodyMemory(Semaphore);

impl BodyMemory {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Semaphore::new((bytes / UNIT_BYTES).min(Semaphore::MAX_PERMITS)))
    }
}

/// A body that was read, and its permits for the memory that it takes.
pub(super) struct ReceivedBody<'a> {
    pub(super) bytes: Vec<u8>,
    pub(super) memory: Option<SemaphorePermit<'a>>,
    /// A body up to this size needs none.
    uncounted: usize,
}

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
    let uncounted = if request.version() == Version::HTTP_2 { 0 } else { SMALL_BYTES_MAX };
    let received = ReceivedBody { bytes: Vec::new(), memory: None, uncounted };
    let reading = received.read_all(request.into_body(), config.body_bytes_max, memory);
    match timeout(config.body_timeout, reading).await {
        Ok(result) => result,
        Err(_) => {
            let seconds = config.body_timeout.as_secs();
            let message = format!("the body did not arrive within {seconds} s");
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/json")
}

impl<'a> ReceivedBody<'a> {
    async fn read_all(
        mut self,
        mut body: Body,
        bytes_max: usize,
        memory: &'a BodyMemory,
    ) -> Result<Self, ApiError> {
        let promised = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if promised > bytes_max {
            return Err(too_large(bytes_max));
        }
        self.reserve(promised, memory)?;
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let Ok(frame) = frame else {
                let message = "the body ended before it was complete";
                return Err(ApiError::new(StatusCode::BAD_REQUEST, message));
            };
            let Ok(data) = frame.into_data() else { continue };
            let len = self.bytes.len().saturating_add(data.len());
            if len > bytes_max {
                return Err(too_large(bytes_max));
            }
            self.reserve(len, memory)?;
            self.bytes.extend_from_slice(&data);
        }
        Ok(self)
    }

    /// Takes permits for `len` bytes in all.
    fn reserve(&mut self, len: usize, memory: &'a BodyMemory) -> Result<(), ApiError> {
        if len <= self.uncounted {
            return Ok(());
        }
        let held = self.memory.as_ref().map_or(0, SemaphorePermit::num_permits);
        let missing = len.div_ceil(UNIT_BYTES).saturating_sub(held);
        let missing = u32::try_from(missing).map_err(|_| too_many())?;
        let more = memory.0.try_acquire_many(missing).map_err(|_| too_many())?;
        match &mut self.memory {
            Some(memory) => memory.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

fn too_many() -> ApiError {
    let message = "too many long requests arrive at once; try again later";
    let retry_after = Some(Duration::from_secs(1));
    ApiError { retry_after, ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, message) }
}

fn too_large(bytes_max: usize) -> ApiError {
    let message = format!("the body may have {bytes_max} bytes at most");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

//! The body of a request. It is read within limits of size, time and memory, or refused and
//! dropped.

use super::client_state::ClientState;
use super::config::HttpConfig;
use super::error::ApiError;
use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_TYPE, EXPECT};
use axum::http::{HeaderMap, Request, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// Bodies up to this size are always taken. Longer ones count against
/// [`HttpConfig::body_memory_bytes`].
const SMALL_BYTES_MAX: usize = 64 << 10;
/// The bytes that a permit of [`BodyMemory`] stands for.
const UNIT_BYTES: usize = 4 << 10;
/// This many times the limit of a body that is refused is read and dropped, because a client that
/// is still writing would not see the answer.
const DRAIN_FACTOR: usize = 4;

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
    let mut body = request.into_body();
    match timeout(config.body_timeout, read_all(&mut body, config.body_bytes_max, memory)).await {
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

async fn read_all<'a>(
    body: &mut Body,
    bytes_max: usize,
    memory: &'a BodyMemory,
) -> Result<ReceivedBody<'a>, ApiError> {
    let promised = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if promised > bytes_max {
        return Err(too_large(bytes_max));
    }
    let mut received = ReceivedBody { bytes: Vec::new(), memory: None };
    received.reserve(promised, memory)?;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        let Ok(frame) = frame else {
            let message = "the body ended before it was complete";
            return Err(ApiError::new(StatusCode::BAD_REQUEST, message));
        };
        let Ok(data) = frame.into_data() else { continue };
        let len = received.bytes.len().saturating_add(data.len());
        if len > bytes_max {
            return Err(too_large(bytes_max));
        }
        received.reserve(len, memory)?;
        received.bytes.extend_from_slice(&data);
    }
    Ok(received)
}

impl<'a> ReceivedBody<'a> {
    /// Takes permits for `len` bytes in all.
    fn reserve(&mut self, len: usize, memory: &'a BodyMemory) -> Result<(), ApiError> {
        if len <= SMALL_BYTES_MAX {
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

/// The body of a request on its way to a handler. A handler that drops it before its end refuses
/// it. Then the answer is sent at once, and the rest is read and dropped within limits: a client
/// that cannot go on writing would see a broken connection instead of the answer.
struct RequestBody {
    incoming: Option<Incoming>,
    client: Arc<ClientState>,
    config: Arc<HttpConfig>,
    /// The client still waits to be asked for the body (`Expect: 100-continue`). Reading asks.
    unasked: bool,
}

/// Wraps the body of a request in a [`RequestBody`].
pub(super) fn of_request(
    request: Request<Incoming>,
    client: &Arc<ClientState>,
    config: &Arc<HttpConfig>,
) -> Request<Body> {
    let unasked = request.headers().contains_key(EXPECT);
    request.map(|incoming| {
        if incoming.is_end_stream() {
            client.request_arrived();
            return Body::empty();
        }
        let (client, config) = (Arc::clone(client), Arc::clone(config));
        Body::new(RequestBody { incoming: Some(incoming), client, config, unasked })
    })
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.unasked = false;
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(incoming).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.incoming = None;
            self.client.request_arrived();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map(Incoming::size_hint).unwrap_or_default()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some(incoming) = self.incoming.take().filter(|_| !self.unasked) else { return };
        // Without a runtime there is no connection either.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let bytes_max = self.config.body_bytes_max.saturating_mul(DRAIN_FACTOR);
            runtime.spawn(timeout(self.config.body_timeout, drain(incoming, bytes_max)));
        }
    }
}

async fn drain(mut incoming: Incoming, bytes_max: usize) {
    let mut seen = 0_usize;
    while seen <= bytes_max
        && let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)).await
    {
        seen = seen.saturating_add(frame.data_ref().map_or(0, Bytes::len));
    }
}

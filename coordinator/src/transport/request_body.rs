//! The body of a request on its way to a handler. A handler that drops it before its end refuses
//! it. Then the answer is sent at once, and over HTTP/1.1 the rest is read and dropped within
//! limits: a client that cannot go on writing would see a broken connection instead of the answer.
//! HTTP/2 has a word for it.

use super::client_state::Exchange;
use super::config::TransportConfig;
use axum::body::{Body, Bytes};
use axum::http::header::EXPECT;
use axum::http::{Request, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::timeout;

struct RequestBody {
    incoming: Option<Incoming>,
    exchange: Arc<Exchange>,
    config: Arc<TransportConfig>,
    /// What is left is read when the handler drops the body. It is not while the client still
    /// waits to be asked for it (`Expect: 100-continue`), which reading would do.
    drains: bool,
}

/// Wraps the body of a request.
pub(super) fn of_request(
    request: Request<Incoming>,
    exchange: &Arc<Exchange>,
    config: &Arc<TransportConfig>,
) -> Request<Body> {
    let is_http2 = request.version() == Version::HTTP_2;
    let drains = !is_http2 && !request.headers().contains_key(EXPECT);
    request.map(|incoming| {
        if incoming.is_end_stream() {
            exchange.request_arrived();
            return Body::empty();
        }
        let (exchange, config) = (Arc::clone(exchange), Arc::clone(config));
        Body::new(RequestBody { incoming: Some(incoming), exchange, config, drains })
    })
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.drains = !self.exchange.client().is_http2();
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(incoming).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.incoming = None;
            self.exchange.request_arrived();
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
        let Some(incoming) = self.incoming.take().filter(|_| self.drains) else { return };
        // Without a runtime there is no connection either.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let draining = drain(incoming, self.config.drain_bytes_max);
            runtime.spawn(timeout(self.config.drain_timeout, draining));
        }
    }
}

async fn drain(mut incoming: Incoming, bytes_max: usize) {
    let mut dropped = 0_usize;
    while dropped <= bytes_max
        && let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)).await
    {
        dropped = dropped.saturating_add(frame.data_ref().map_or(0, Bytes::len));
    }
}

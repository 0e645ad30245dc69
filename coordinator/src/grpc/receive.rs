//! The message of a call, read whole before its service sees it, within limits of size, time and
//! memory over all calls.

use crate::transport::{BodyLimits, BodyMemory, BodyRefusal, ReceivedBody};
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::{Sleep, sleep};
use tonic::Status;

/// Bytes in front of each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// The one service whose clients send several messages, each of them small.
const REFLECTION: &str = "/grpc.reflection.";

/// Bounds of messages.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) limits: BodyLimits,
    pub(super) memory: BodyMemory,
}

/// Reads the message of a call. Its memory counts until the service has answered, or has begun to.
pub(super) async fn whole(
    State(receiving): State<Arc<Receiving>>,
    request: Request,
    next: Next,
) -> Response {
    let limits = receiving.limits;
    let (head, body) = request.into_parts();
    if head.uri.path().starts_with(REFLECTION) {
        let body = TimedBody { body, end: Box::pin(sleep(limits.timeout)) };
        return next.run(Request::from_parts(head, Body::new(body))).await;
    }
    let limits = BodyLimits { bytes_max: limits.bytes_max + PREFIX_BYTES, ..limits };
    let request = Request::from_parts(head.clone(), body);
    match ReceivedBody::read(request, limits, &receiving.memory).await {
        Ok(ReceivedBody { bytes, memory, .. }) => {
            let answer = next.run(Request::from_parts(head, Body::from(bytes))).await;
            drop(memory);
            answer
        }
        Err(refusal) => refused(refusal, receiving.limits).into_http(),
    }
}

fn refused(refusal: BodyRefusal, limits: BodyLimits) -> Status {
    match refusal {
        BodyRefusal::TooLarge { .. } => Status::resource_exhausted(format!(
            "a message may have {} bytes at most",
            limits.bytes_max
        )),
        BodyRefusal::TooMany => Status::resource_exhausted(refusal.to_string()),
        BodyRefusal::Cut => Status::cancelled(refusal.to_string()),
        BodyRefusal::Late { .. } => Status::deadline_exceeded(refusal.to_string()),
    }
}

/// The messages of a call that may have several. They end, in order or not, after a while.
struct TimedBody {
    body: Body,
    end: Pin<Box<Sleep>>,
}

impl http_body::Body for TimedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Pending => this.end.as_mut().poll(cx).map(|()| None),
            ready => ready,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

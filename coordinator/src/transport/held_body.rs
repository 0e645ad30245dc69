//! The body of an answer over HTTP/2, whose client says how much of it may be sent.
//!
//! A client may take nothing of one answer while it reads others, for ever. Then hyper does not ask
//! for more of that body, and its connection makes progress. So the body remembers since when it
//! has waited, and [`HeldAnswers::drop_stalled`] ends it from outside. It gives pieces, so that
//! hyper keeps little for a client that takes nothing.

use super::client_state::Exchange;
use axum::body::{Body, Bytes};
use http_body::{Body as _, Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// The longest piece: a frame of HTTP/2 has no more unless its receiver asks for it.
const PIECE_BYTES_MAX: usize = 16 << 10;

/// The body had to be ended before all of it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client took nothing of the answer for too long")]
struct Stalled;

/// A body, and what is known of its way to the client.
#[derive(Debug)]
struct HeldBody {
    /// `None` once it was ended from outside.
    body: Option<Body>,
    /// What is left of the last frame.
    rest: Bytes,
    /// When the last piece was taken, while no more is asked for.
    given_at: Option<Instant>,
}

/// What hyper sends of a [`HeldBody`].
pub(super) struct SentBody {
    held: Arc<Mutex<HeldBody>>,
    _exchange: Arc<Exchange>,
}

/// The answers of a connection of HTTP/2 that are being sent.
#[derive(Debug, Default)]
pub(super) struct HeldAnswers(Mutex<Vec<Weak<Mutex<HeldBody>>>>);

impl HeldAnswers {
    /// One more answer. With its end the exchange ends.
    pub(super) fn hold(&self, body: Body, exchange: Arc<Exchange>) -> SentBody {
        let held = HeldBody { body: Some(body), rest: Bytes::new(), given_at: None };
        let held = Arc::new(Mutex::new(held));
        lock(&self.0).push(Arc::downgrade(&held));
        SentBody { held, _exchange: exchange }
    }

    /// Ends the answers of which the client took nothing for `write_timeout`.
    pub(super) fn drop_stalled(&self, now: Instant, write_timeout: Duration) {
        let mut answers = lock(&self.0);
        answers.retain(|held| held.strong_count() > 0);
        let held: Vec<_> = answers.iter().filter_map(Weak::upgrade).collect();
        drop(answers);
        for held in held {
            let mut held = lock(&held);
            let is_late = |at: Instant| now.saturating_duration_since(at) >= write_timeout;
            let stalled = if held.given_at.is_some_and(is_late) { held.body.take() } else { None };
            drop(held);
            // With the body its request ends, which may wake others.
            drop(stalled);
        }
    }
}

impl HeldBody {
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.given_at = None;
        let Some(body) = &mut self.body else {
            return Poll::Ready(Some(Err(axum::Error::new(Stalled))));
        };
        if self.rest.is_empty() {
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES_MAX));
        self.given_at = Some(Instant::now());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl http_body::Body for SentBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        lock(&self.held).poll_piece(cx)
    }

    fn is_end_stream(&self) -> bool {
        let held = lock(&self.held);
        held.rest.is_empty() && held.body.as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let held = lock(&self.held);
        let left = held.body.as_ref().map(Body::size_hint).unwrap_or_default();
        let rest = held.rest.len() as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(left.lower().saturating_add(rest));
        if let Some(upper) = left.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

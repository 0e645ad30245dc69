//! A streamed answer as server-sent events.
//!
//! All text that is pending becomes one event, and only while hyper has room for it, so that a slow
//! reader gets fewer and longer events. Dropping the body cancels the request.

use super::chunk_writer::{self, ChunkWriter, Ended, put_failure};
use super::error::ApiError;
use super::request_id::HttpRequestId;
use crate::front::AnswerStream;
use crate::text::TextPieces;
use crate::transport::ClientState;
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// A comment, which clients pass over. It shows that the server is there, or that the client is
/// not.
const COMMENT: &[u8] = b": still here\n\n";

/// One of a request's answers.
pub(super) struct StreamedChoice {
    pub(super) stream: AnswerStream,
    pub(super) chunks: ChunkWriter,
    pub(super) ended: Option<Ended>,
}

/// The body of a request's streamed answers.
pub(super) struct SseBody {
    /// At least one. Those that have ended wait for the others.
    choices: Vec<StreamedChoice>,
    request_id: HttpRequestId,
    client: Arc<ClientState>,
    progress: StreamProgress,
    comment_interval: Duration,
    silence: Pin<Box<Sleep>>,
    /// Something was sent since `silence` was set.
    sent_since: bool,
    /// A client that may have left was sent a comment, which shows whether it has.
    was_probed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StreamProgress {
    Opening,
    Text,
    Ended,
}

impl SseBody {
    pub(super) fn new(
        choices: Vec<StreamedChoice>,
        request_id: HttpRequestId,
        client: Arc<ClientState>,
        comment_interval: Duration,
    ) -> Self {
        Self {
            choices,
            request_id,
            client,
            progress: StreamProgress::Opening,
            comment_interval,
            silence: Box::pin(sleep(comment_interval)),
            sent_since: false,
            was_probed: false,
        }
    }

    /// Whether nothing was sent for one to two intervals. Otherwise `cx` is woken when it may be
    /// so. (For an exact interval every event would have to read a clock.)
    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        while self.silence.as_mut().poll(cx).is_ready() {
            self.silence.as_mut().reset(Instant::now() + self.comment_interval);
            if !std::mem::take(&mut self.sent_since) {
                return true;
            }
        }
        false
    }

    /// Whether the client has to be sent something now that shows whether it is there.
    fn needs_probe(&mut self) -> bool {
        let needs_probe = !self.was_probed && self.client.may_have_left();
        self.was_probed |= needs_probe;
        needs_probe
    }

    /// The events that are pending. `cx` is woken for more.
    fn take_events(&mut self, cx: &Context<'_>) -> BytesMut {
        let mut out = BytesMut::new();
        if self.progress == StreamProgress::Opening {
            self.progress = StreamProgress::Text;
            self.choices.iter().for_each(|choice| choice.chunks.opening(&mut out));
        }
        let open = self.choices.iter_mut().filter(|choice| choice.ended.is_none());
        let failed = open.map(|choice| choice.take_events(cx, &mut out)).find_map(Result::err);
        if let Some(error) = failed {
            put_failure(&error, self.request_id.text(), &mut out);
            self.client.close_after_answer();
            self.progress = StreamProgress::Ended;
            // Answers that still run are cancelled.
            self.choices.clear();
        } else if self.choices.iter().all(|choice| choice.ended.is_some()) {
            let ended: Vec<Ended> =
                self.choices.iter().filter_map(|choice| choice.ended.clone()).collect();
            if let Some(first) = self.choices.first() {
                first.chunks.all_done(&ended, &mut out);
            }
            self.progress = StreamProgress::Ended;
        }
        out
    }
}

impl StreamedChoice {
    /// Appends the answer's events that are pending. Fails as the answer does.
    fn take_events(&mut self, cx: &Context<'_>, out: &mut BytesMut) -> Result<(), ApiError> {
        let mut text = TextPieces::default();
        let Poll::Ready(end) = self.stream.poll_take(cx, &mut text) else { return Ok(()) };
        let new = self.chunks.take_tokens(&self.stream);
        self.chunks.text(&text, &new, out);
        if let Some(end) = end {
            let ended = chunk_writer::ended(end)?;
            self.chunks.done(&ended, out);
            self.ended = Some(ended);
        }
        Ok(())
    }
}

impl Body for SseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.progress == StreamProgress::Ended {
            return Poll::Ready(None);
        }
        let out = this.take_events(cx);
        if out.is_empty() {
            let silent = this.is_silent(cx);
            if !this.needs_probe() && !silent {
                return Poll::Pending;
            }
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(COMMENT)))));
        }
        this.sent_since = true;
        Poll::Ready(Some(Ok(Frame::data(out.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.progress == StreamProgress::Ended
    }
}

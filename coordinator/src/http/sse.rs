//! A streamed answer as server-sent events.
//!
//! All that is pending leaves as one event, and only while hyper has room for it, so that a slow
//! reader gets fewer, longer pieces. Dropping the body cancels the request.

use super::answer::{ChunkWriter, put_failure};
use super::client_state::ClientState;
use super::error::ApiError;
use crate::front::{AnswerStream, End};
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// Says nothing, and shows that the server is there, or that the client is not.
const COMMENT: &[u8] = b": still here\n\n";

/// The body of one streamed answer.
pub(super) struct SseBody {
    stream: AnswerStream,
    events: ChunkWriter,
    client: Arc<ClientState>,
    progress: StreamProgress,
    comment_interval: Duration,
    silence: Pin<Box<Sleep>>,
    /// Something was sent since `silence` was set.
    lively: bool,
    /// A client that may have left was sent something that shows whether it has.
    asked: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StreamProgress {
    Opening,
    Text,
    Ended,
}

impl SseBody {
    pub(super) fn new(
        stream: AnswerStream,
        events: ChunkWriter,
        client: Arc<ClientState>,
        comment_interval: Duration,
    ) -> Self {
        Self {
            stream,
            events,
            client,
            progress: StreamProgress::Opening,
            comment_interval,
            silence: Box::pin(sleep(comment_interval)),
            lively: false,
            asked: false,
        }
    }

    /// Whether nothing was sent for one to two intervals; otherwise sees to being woken. (To say it
    /// exactly, every event would have to look at a clock.)
    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        while self.silence.as_mut().poll(cx).is_ready() {
            self.silence.as_mut().reset(Instant::now() + self.comment_interval);
            if !std::mem::take(&mut self.lively) {
                return true;
            }
        }
        false
    }

    /// Whether the client has to be asked if it is there.
    fn is_doubtful(&mut self) -> bool {
        let doubtful = !self.asked && self.client.is_doubtful();
        self.asked |= doubtful;
        doubtful
    }

    /// The events that there are; `cx` is woken for more.
    fn collect(&mut self, cx: &Context<'_>) -> BytesMut {
        let mut out = BytesMut::new();
        if self.progress == StreamProgress::Opening {
            self.progress = StreamProgress::Text;
            self.events.opening(&mut out);
        }
        let mut text = String::new();
        let Poll::Ready(end) = self.stream.poll_take(cx, &mut text) else { return out };
        let logprobs = self.stream.take_logprobs();
        if !text.is_empty() || !logprobs.is_empty() {
            self.events.text(&text, &logprobs, &mut out);
        }
        match end {
            None => return out,
            Some(End::Done { finish, usage }) => self.events.done(finish, usage, &mut out),
            Some(End::Failed { message, kind }) => {
                put_failure(&ApiError::failed(kind, message), &mut out);
                self.client.close_after_answer();
            }
        }
        self.progress = StreamProgress::Ended;
        out
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
        let out = this.collect(cx);
        if out.is_empty() {
            let silent = this.is_silent(cx);
            if !this.is_doubtful() && !silent {
                return Poll::Pending;
            }
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(COMMENT)))));
        }
        this.lively = true;
        Poll::Ready(Some(Ok(Frame::data(out.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.progress == StreamProgress::Ended
    }
}

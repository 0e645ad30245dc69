//! A streamed answer as a body of server-sent events.
//!
//! Each time the connection can take more, all pending text leaves as one event: a slow reader
//! gets fewer, longer pieces. Dropping the body cancels the request.

use super::answer::{Events, put_failure};
use super::connection::Closing;
use super::error::ApiError;
use crate::front::{End, Stream};
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// The body of one streamed answer.
pub(super) struct Sse {
    stream: Stream,
    events: Events,
    closing: Closing,
    progress: Progress,
    text: String,
    out: BytesMut,
    comment_interval: Duration,
    /// Something was sent since `silence` was set.
    lively: bool,
    silence: Pin<Box<Sleep>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Opening,
    Text,
    Ended,
}

impl Sse {
    pub(super) fn new(
        stream: Stream,
        events: Events,
        closing: Closing,
        comment_interval: Duration,
    ) -> Self {
        Self {
            stream,
            events,
            closing,
            progress: Progress::Opening,
            text: String::new(),
            out: BytesMut::new(),
            comment_interval,
            lively: false,
            silence: Box::pin(sleep(comment_interval)),
        }
    }

    /// Puts whatever there is into `out`.
    fn collect(&mut self, cx: &mut Context<'_>) {
        if self.progress == Progress::Opening {
            self.progress = Progress::Text;
            self.events.opening(&mut self.out);
        }
        self.text.clear();
        let Poll::Ready(end) = self.stream.poll_take(cx, &mut self.text) else { return };
        if !self.text.is_empty() {
            self.events.text(&self.text, &mut self.out);
        }
        match end {
            None => return,
            Some(End::Done { finish, usage }) => self.events.done(finish, usage, &mut self.out),
            Some(End::Failed { message, kind }) => {
                put_failure(&ApiError::failed(kind, message), &mut self.out);
                self.closing.close_after_answer();
            }
        }
        self.progress = Progress::Ended;
    }

    /// Puts a comment into `out` when nothing was sent for one to two intervals; otherwise sees to
    /// being woken. (To say it exactly, every event would have to look at a clock.)
    fn comment(&mut self, cx: &mut Context<'_>) {
        while self.silence.as_mut().poll(cx).is_ready() {
            self.silence.as_mut().reset(Instant::now() + self.comment_interval);
            if !std::mem::take(&mut self.lively) {
                self.out.extend_from_slice(b": still here\n\n");
                return;
            }
        }
    }
}

impl Body for Sse {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.progress == Progress::Ended {
            return Poll::Ready(None);
        }
        this.collect(cx);
        if this.out.is_empty() {
            this.comment(cx);
        }
        if this.out.is_empty() {
            return Poll::Pending;
        }
        this.lively = true;
        Poll::Ready(Some(Ok(Frame::data(this.out.split().freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.progress == Progress::Ended
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

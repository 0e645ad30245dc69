//! A streamed answer as server-sent events.
//!
//! An answer is its own waker: to wake it is to write its news, without a task. All that is pending
//! leaves as one event, and only while the socket has room, so that a slow reader gets fewer, longer
//! pieces. The body that hyper holds has no data: it stands for the answer in the connection's task,
//! which writes what a socket did not take, and ends. Dropping it cancels the request.

use super::answer::{Events, put_failure};
use super::error::ApiError;
use super::socket::Outlet;
use crate::front::{End, Stream};
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// The body of one streamed answer.
pub(super) struct Sse {
    answer: Arc<Answer>,
    comment_interval: Duration,
    silence: Pin<Box<Sleep>>,
}

struct Answer(Mutex<Writer>);

struct Writer {
    /// Until the body is dropped.
    stream: Option<Stream>,
    events: Events,
    outlet: Outlet,
    progress: Progress,
    /// Something was sent since `Sse::silence` was set.
    lively: bool,
    /// The connection's task.
    connection: Waker,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Hyper does not have the head yet.
    Head,
    Opening,
    Text,
    Ended,
}

impl Sse {
    pub(super) fn new(
        stream: Stream,
        events: Events,
        outlet: Outlet,
        comment_interval: Duration,
    ) -> Self {
        let writer = Writer {
            stream: Some(stream),
            events,
            outlet,
            progress: Progress::Head,
            lively: false,
            connection: Waker::noop().clone(),
        };
        let answer = Arc::new(Answer(Mutex::new(writer)));
        Self { answer, comment_interval, silence: Box::pin(sleep(comment_interval)) }
    }

    /// Whether nothing was sent for one to two intervals; otherwise sees to being woken. (To say it
    /// exactly, every event would have to look at a clock.)
    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        while self.silence.as_mut().poll(cx).is_ready() {
            self.silence.as_mut().reset(Instant::now() + self.comment_interval);
            if !std::mem::take(&mut self.answer.writer().lively) {
                return true;
            }
        }
        false
    }
}

impl Answer {
    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Answer {
    fn wake(self: Arc<Self>) {
        let waker = Waker::from(Arc::clone(&self));
        self.writer().write(&Context::from_waker(&waker));
    }
}

impl Writer {
    /// Writes what there is, if there is room; then `cx` is woken for what comes.
    fn write(&mut self, cx: &Context<'_>) {
        if self.progress == Progress::Ended || !self.outlet.has_room() {
            return;
        }
        let events = self.collect(cx);
        if !events.is_empty() {
            self.send(&events);
        }
    }

    /// Sends events, and leaves what is to be done after them to the connection's task.
    fn send(&mut self, events: &[u8]) {
        self.outlet.send(events);
        self.lively = true;
        if self.progress == Progress::Ended || !self.outlet.has_room() {
            self.connection.wake_by_ref();
        }
    }

    fn collect(&mut self, cx: &Context<'_>) -> BytesMut {
        let mut out = BytesMut::new();
        if self.progress == Progress::Opening {
            self.progress = Progress::Text;
            self.events.opening(&mut out);
        }
        let mut text = String::new();
        let Some(stream) = &self.stream else { return out };
        let Poll::Ready(end) = stream.poll_take(cx, &mut text) else { return out };
        let logprobs = stream.take_logprobs();
        if !text.is_empty() || !logprobs.is_empty() {
            self.events.text(&text, &logprobs, &mut out);
        }
        match end {
            None => return out,
            Some(End::Done { finish, usage }) => self.events.done(finish, usage, &mut out),
            Some(End::Failed { message, kind }) => {
                put_failure(&ApiError::failed(kind, message), &mut out);
                self.outlet.close_after_answer();
            }
        }
        self.progress = Progress::Ended;
        out
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
        let silent = this.is_silent(cx);
        let waker = Waker::from(Arc::clone(&this.answer));
        let mut writer = this.answer.writer();
        writer.connection.clone_from(cx.waker());
        if writer.progress == Progress::Head {
            writer.outlet.open();
            writer.progress = Progress::Opening;
        }
        writer.write(&Context::from_waker(&waker));
        if writer.progress == Progress::Ended {
            return Poll::Ready(None);
        }
        if silent && writer.outlet.has_room() {
            writer.send(b": still here\n\n");
        }
        Poll::Pending
    }
}

impl Drop for Sse {
    fn drop(&mut self) {
        let stream = self.answer.writer().stream.take();
        // The stream holds the answer as its waker, so it is dropped without the lock.
        drop(stream);
    }
}

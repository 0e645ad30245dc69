//! Where a request's text lies until its reader takes it.
//!
//! The courier appends and never waits ([`super::Outbox`]); the reader takes everything pending at
//! once, so a slow reader costs memory (which the serve loop learns of by a [`ReadCounter`]) but never
//! time. The first terminal event wins and whatever comes after it is dropped: a reader sees
//! exactly one end.

use crate::sched::{FailCause, Finish, Refused, Usage};
use binfer_proto::Logprob;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Why a request that was admitted has no ordinary end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailKind {
    /// A worker process was lost; the message names rank and cause.
    WorkerLost,
    /// The model computed numbers that are not finite.
    NonFinite,
    /// The request waited in the queue past its deadline.
    QueueTimeout,
    /// The client did not read and memory for unread text ran out.
    SlowReader,
    /// The server is shutting down and the time for draining is over.
    Shutdown,
    /// A defect of ours.
    Internal,
}

impl From<FailCause> for FailKind {
    fn from(cause: FailCause) -> Self {
        match cause {
            FailCause::NonFinite => Self::NonFinite,
            FailCause::QueueTimeout => Self::QueueTimeout,
        }
    }
}

/// The one terminal event of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// An ordinary end.
    Done {
        /// Why it ended.
        finish: Finish,
        /// What it consumed.
        usage: Usage,
    },
    /// No ordinary end.
    Failed {
        /// For the client; names the cause.
        message: String,
        /// For the status code.
        kind: FailKind,
    },
}

/// How often a reader wants to be woken for text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// As soon as there is text.
    Streamed,
    /// Once at the end (and when a few KiB are pending, to move them out).
    Whole,
}

/// Pending bytes at which a reader of whole answers is woken.
const WHOLE_WAKE_BYTES: usize = 4096;

/// What the serve loop may know of a reader.
#[derive(Debug, Default)]
pub struct ReadCounter {
    read_bytes: AtomicU64,
    closed: AtomicBool,
}

impl ReadCounter {
    /// Bytes of text and logprobs that the reader took, or will never take.
    pub(super) fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// Whether the reader has left: nothing more will be read, the request may be cancelled.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn read(&self, bytes: usize) {
        self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Pending text and end of one request.
#[derive(Debug)]
pub(super) struct StreamBuffer {
    inner: Mutex<Inner>,
    wake_bytes: usize,
    read_counter: Arc<ReadCounter>,
}

#[derive(Debug, Default)]
struct Inner {
    admission: Option<Result<(), Refused>>,
    text: String,
    logprobs: Vec<Logprob>,
    end: Option<End>,
    ended: bool,
    waker: Option<Waker>,
}

impl StreamBuffer {
    /// An empty mailbox.
    pub(super) fn new(read_mode: ReadMode, read_counter: Arc<ReadCounter>) -> Self {
        let wake_bytes = match read_mode {
            ReadMode::Streamed => 1,
            ReadMode::Whole => WHOLE_WAKE_BYTES,
        };
        Self { inner: Mutex::default(), wake_bytes, read_counter }
    }

    /// Courier: whether the scheduler took the request. If not, this is the end. Like the other
    /// news it returns the reader, to be woken.
    pub(super) fn admission(&self, answer: Result<(), Refused>) -> Option<Waker> {
        self.write(|inner| {
            inner.ended = answer.is_err();
            inner.admission = Some(answer);
        })
    }

    /// Courier: more text.
    pub(super) fn text(&self, text: &str) -> Option<Waker> {
        let mut inner = self.lock();
        if inner.ended {
            self.read_counter.read(text.len());
            return None;
        }
        inner.text.push_str(text);
        if inner.text.len() >= self.wake_bytes { inner.waker.take() } else { None }
    }

    /// Courier: more logprobs. They wait for text, or the end: nobody is woken for them alone.
    pub(super) fn logprobs(&self, found: &[Logprob]) {
        let mut inner = self.lock();
        if inner.ended {
            self.read_counter.read(size_of_val(found));
            return;
        }
        inner.logprobs.extend_from_slice(found);
    }

    /// Courier: the end. What a slow reader has not read is dropped.
    pub(super) fn end(&self, end: End) -> Option<Waker> {
        self.write(|inner| {
            if matches!(end, End::Failed { kind: FailKind::SlowReader, .. }) {
                self.forget(inner);
            }
            inner.ended = true;
            inner.end = Some(end);
        })
    }

    /// Reader: waits until the scheduler took or refused the request.
    pub(super) async fn admitted(&self) -> Result<(), Refused> {
        poll_fn(|cx| {
            let mut inner = self.lock();
            if let Some(answer) = inner.admission.take() {
                return Poll::Ready(answer);
            }
            if inner.ended {
                // The end says more than a missing admission: let the reader find it.
                return Poll::Ready(Ok(()));
            }
            remember(&mut inner.waker, cx);
            Poll::Pending
        })
        .await
    }

    /// Reader: appends all pending text to `text` and returns the end if it was reached. Ready
    /// means that there was text, or the end, or both; pending that there was neither. Without an
    /// end `cx` is woken for what comes next.
    pub(super) fn poll_take(&self, cx: &Context<'_>, text: &mut String) -> Poll<Option<End>> {
        let mut inner = self.lock();
        let bytes = inner.text.len();
        if bytes > 0 {
            text.push_str(&inner.text);
            inner.text.clear();
            self.read_counter.read(bytes);
        }
        let end = inner.end.take();
        if end.is_none() {
            remember(&mut inner.waker, cx);
        }
        if bytes > 0 || end.is_some() { Poll::Ready(end) } else { Poll::Pending }
    }

    /// Reader: all pending logprobs: those of at least the tokens whose text was taken before.
    pub(super) fn take_logprobs(&self) -> Vec<Logprob> {
        let found = std::mem::take(&mut self.lock().logprobs);
        self.read_counter.read(size_of_val(&found[..]));
        found
    }

    /// Reader: leaves. Returns whether the request still runs, as far as the mailbox knows.
    pub(super) fn close(&self) -> bool {
        self.read_counter.closed.store(true, Ordering::Relaxed);
        let mut inner = self.lock();
        self.forget(&mut inner);
        inner.waker = None;
        !std::mem::replace(&mut inner.ended, true)
    }

    /// Drops pending text and logprobs.
    fn forget(&self, inner: &mut Inner) {
        let text_bytes = std::mem::take(&mut inner.text).len();
        let logprob_bytes = size_of_val(&std::mem::take(&mut inner.logprobs)[..]);
        self.read_counter.read(text_bytes + logprob_bytes);
    }

    /// Applies `change` unless the request has ended.
    fn write(&self, change: impl FnOnce(&mut Inner)) -> Option<Waker> {
        let mut inner = self.lock();
        if inner.ended {
            return None;
        }
        change(&mut inner);
        inner.waker.take()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remember(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

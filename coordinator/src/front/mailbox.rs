//! Where the serve loop leaves a request's text and its reader takes it.
//!
//! The serve loop appends and never waits; the reader takes everything pending at once, so a slow
//! reader costs memory (accounted in [`UnreadBudget`]) but never time. The first terminal event
//! wins and whatever comes after it is dropped: a reader sees exactly one end.

use super::budget::UnreadBudget;
use crate::sched::{FailCause, Finish, Refused, Usage};
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
pub enum Reading {
    /// As soon as there is text.
    Streamed,
    /// Once at the end (and when a few KiB are pending, to move them out).
    Whole,
}

/// Pending bytes at which a reader of whole answers is woken.
const WHOLE_WAKE_BYTES: usize = 4096;

/// Pending text and end of one request, between the serve loop and one reader.
#[derive(Debug)]
pub struct Mailbox {
    inner: Mutex<Inner>,
    closed: AtomicBool,
    unread_bytes: AtomicUsize,
    wake_bytes: usize,
    budget: Arc<UnreadBudget>,
}

#[derive(Debug, Default)]
struct Inner {
    admission: Option<Result<(), Refused>>,
    text: String,
    end: Option<End>,
    ended: bool,
    waker: Option<Waker>,
}

impl Mailbox {
    /// An empty mailbox whose unread text counts against `budget`.
    pub fn new(reading: Reading, budget: Arc<UnreadBudget>) -> Self {
        let wake_bytes = match reading {
            Reading::Streamed => 1,
            Reading::Whole => WHOLE_WAKE_BYTES,
        };
        Self {
            inner: Mutex::default(),
            closed: AtomicBool::new(false),
            unread_bytes: AtomicUsize::new(0),
            wake_bytes,
            budget,
        }
    }

    /// Serve loop: the scheduler took the request.
    pub fn admit(&self) {
        self.write(|inner| inner.admission = Some(Ok(())));
    }

    /// Serve loop: the scheduler did not take the request. Terminal.
    pub fn refuse(&self, why: Refused) {
        self.write(|inner| {
            inner.admission = Some(Err(why));
            inner.ended = true;
        });
    }

    /// Serve loop: more text. Returns the reader's waker if it waits: to be woken when nothing else
    /// is urgent.
    pub fn text(&self, text: &str) -> Option<Waker> {
        if text.is_empty() || self.is_closed() {
            return None;
        }
        let mut inner = self.lock();
        if inner.ended {
            return None;
        }
        inner.text.push_str(text);
        self.budget.add(text.len());
        self.unread_bytes.fetch_add(text.len(), Ordering::Relaxed);
        if inner.text.len() >= self.wake_bytes { inner.waker.take() } else { None }
    }

    /// Serve loop: the ordinary end. Terminal.
    pub fn done(&self, finish: Finish, usage: Usage) {
        self.write(|inner| {
            inner.ended = true;
            inner.end = Some(End::Done { finish, usage });
        });
    }

    /// Serve loop: the end by failure. Terminal. What a slow reader has not read is dropped.
    pub fn fail(&self, kind: FailKind, message: String) {
        self.write(|inner| {
            if kind == FailKind::SlowReader {
                self.forget(inner);
            }
            inner.ended = true;
            inner.end = Some(End::Failed { message, kind });
        });
    }

    /// Whether the reader has left: nothing more will be read, the request may be cancelled.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Bytes that the reader has not taken yet.
    pub fn unread_bytes(&self) -> usize {
        self.unread_bytes.load(Ordering::Relaxed)
    }

    /// Reader: waits until the scheduler took or refused the request.
    pub async fn admitted(&self) -> Result<(), Refused> {
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
    /// means that there was text, or the end, or both; pending that there was neither.
    pub fn poll_take(&self, cx: &Context<'_>, text: &mut String) -> Poll<Option<End>> {
        let mut inner = self.lock();
        let bytes = inner.text.len();
        if bytes > 0 {
            text.push_str(&inner.text);
            inner.text.clear();
            self.budget.subtract(bytes);
            self.unread_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        let end = inner.end.take();
        if bytes == 0 && end.is_none() {
            remember(&mut inner.waker, cx);
            return Poll::Pending;
        }
        Poll::Ready(end)
    }

    /// Reader: leaves. Returns whether the request still runs, as far as the mailbox knows.
    pub fn close(&self) -> bool {
        self.closed.store(true, Ordering::Relaxed);
        let mut inner = self.lock();
        self.forget(&mut inner);
        !std::mem::replace(&mut inner.ended, true)
    }

    /// Drops pending text and gives its bytes back.
    fn forget(&self, inner: &mut Inner) {
        let bytes = std::mem::take(&mut inner.text).len();
        self.budget.subtract(bytes);
        self.unread_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Applies `change` unless the request has ended, and wakes the reader.
    fn write(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.lock();
        if inner.ended {
            return;
        }
        change(&mut inner);
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
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

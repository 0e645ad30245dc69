//! Where a request's text waits until its reader takes it.
//!
//! The dispatcher appends and never waits ([`super::Outbox`]). The reader takes everything pending
//! at once, so a slow reader costs memory but never time; the serve loop learns by a
//! [`ReadCounter`] how much memory. The first end wins and whatever comes after it is dropped, so a
//! reader sees exactly one end.

use crate::sched::{FailCause, Finish, Refused, Usage};
use crate::text::{TextEnd, TextKind, TextPieces};
use binfer_proto::{Logprob, Token};
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Why a request that was admitted failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailKind {
    /// A worker process was lost. The message names rank and cause.
    WorkerLost,
    /// The model computed numbers that are not finite.
    NonFinite,
    /// The request waited in the queue past its deadline.
    QueueTimeout,
    /// The client did not read and memory for unread text ran out.
    SlowReader,
    /// The server is shutting down and the time for draining is over.
    Shutdown,
    /// There is a defect in binfer.
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
    /// The answer is complete.
    Done {
        /// Why the answer ended.
        finish: Finish,
        /// What the request consumed.
        usage: Usage,
        /// What its text says of that.
        text: TextEnd,
    },
    /// The request failed.
    Failed {
        /// A message for the client, which names the cause.
        message: String,
        /// The kind of failure, for the protocol's status.
        kind: FailKind,
    },
}

/// How often a reader is woken for text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// As soon as there is text.
    Streamed,
    /// At the end, and when a few KiB are pending, to take them out.
    Whole,
}

/// Pending bytes at which a reader of whole answers is woken.
const WHOLE_WAKE_BYTES: usize = 4096;

/// What the serve loop may know of a reader.
#[derive(Debug, Default)]
pub struct ReadCounter {
    /// The reader wants tokens beside text.
    token_ids: bool,
    read_bytes: AtomicU64,
    closed: AtomicBool,
}

impl ReadCounter {
    /// The counter of a reader that wants tokens beside text, or text alone.
    pub fn new(token_ids: bool) -> Self {
        Self { token_ids, ..Self::default() }
    }

    /// Whether the reader wants tokens beside text.
    pub(super) fn token_ids(&self) -> bool {
        self.token_ids
    }

    /// Bytes of text, tokens and logprobs that the reader took, or will never take.
    pub(super) fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// Whether the reader has left. Nothing more will be read, so the request may be cancelled.
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
    buffered: Mutex<Buffered>,
    wake_bytes: usize,
    read_counter: Arc<ReadCounter>,
}

#[derive(Debug, Default)]
struct Buffered {
    admission: Option<Result<(), Refused>>,
    text: TextPieces,
    tokens: Vec<Token>,
    /// What the request had consumed with the last of them.
    usage: Usage,
    logprobs: Vec<Logprob>,
    end: Option<End>,
    ended: bool,
    waker: Option<Waker>,
}

impl StreamBuffer {
    pub(super) fn new(read_mode: ReadMode, read_counter: Arc<ReadCounter>) -> Self {
        let wake_bytes = match read_mode {
            ReadMode::Streamed => 1,
            ReadMode::Whole => WHOLE_WAKE_BYTES,
        };
        Self { buffered: Mutex::default(), wake_bytes, read_counter }
    }

    /// Dispatcher: whether the scheduler took the request. A refusal is the end. Like the other
    /// updates it returns the reader, to be woken.
    pub(super) fn admission(&self, answer: Result<(), Refused>) -> Option<Waker> {
        self.write(|buffered| {
            buffered.ended = answer.is_err();
            buffered.admission = Some(answer);
        })
    }

    /// Dispatcher: appends text.
    pub(super) fn text(&self, kind: TextKind, text: &str) -> Option<Waker> {
        let mut buffered = self.lock();
        if buffered.ended {
            self.read_counter.read(text.len());
            return None;
        }
        buffered.text.push(kind, text);
        if buffered.text.bytes() >= self.wake_bytes { buffered.waker.take() } else { None }
    }

    /// Dispatcher: appends tokens, which may have no text yet.
    pub(super) fn tokens(&self, tokens: &[Token], usage: Usage) -> Option<Waker> {
        let mut buffered = self.lock();
        if buffered.ended {
            self.read_counter.read(size_of_val(tokens));
            return None;
        }
        buffered.tokens.extend_from_slice(tokens);
        buffered.usage = usage;
        let bytes = size_of_val(&buffered.tokens[..]);
        if bytes >= self.wake_bytes { buffered.waker.take() } else { None }
    }

    /// Dispatcher: appends logprobs. They wait for text, or the end: nobody is woken for them
    /// alone.
    pub(super) fn logprobs(&self, logprobs: &[Logprob]) {
        let mut buffered = self.lock();
        if buffered.ended {
            self.read_counter.read(size_of_val(logprobs));
            return;
        }
        buffered.logprobs.extend_from_slice(logprobs);
    }

    /// Dispatcher: sets the end. What a slow reader has not read is dropped.
    pub(super) fn end(&self, end: End) -> Option<Waker> {
        self.write(|buffered| {
            if matches!(end, End::Failed { kind: FailKind::SlowReader, .. }) {
                self.discard(buffered);
            }
            buffered.ended = true;
            buffered.end = Some(end);
        })
    }

    /// Reader: waits until the scheduler took or refused the request.
    pub(super) async fn admitted(&self) -> Result<(), Refused> {
        poll_fn(|cx| {
            let mut buffered = self.lock();
            if let Some(answer) = buffered.admission.take() {
                return Poll::Ready(answer);
            }
            if buffered.ended {
                // The end says more than a missing admission: let the reader find it.
                return Poll::Ready(Ok(()));
            }
            store_waker(&mut buffered.waker, cx);
            Poll::Pending
        })
        .await
    }

    /// Reader: appends all pending text to `text` and returns the end if it was reached. It is
    /// ready when there was text, or the end, or both, or when there are tokens to take. Without an
    /// end `cx` is woken for what comes next.
    pub(super) fn poll_take(&self, cx: &Context<'_>, text: &mut TextPieces) -> Poll<Option<End>> {
        let mut buffered = self.lock();
        let bytes = buffered.text.bytes();
        if bytes > 0 {
            text.append(&buffered.text);
            buffered.text.clear();
            self.read_counter.read(bytes);
        }
        let end = buffered.end.take();
        if end.is_none() {
            store_waker(&mut buffered.waker, cx);
        }
        let is_ready = bytes > 0 || !buffered.tokens.is_empty() || end.is_some();
        if is_ready { Poll::Ready(end) } else { Poll::Pending }
    }

    /// Reader: takes all pending tokens: at least those whose text was taken before. Returns what
    /// the request had consumed with the last of them.
    pub(super) fn take_tokens(&self, tokens: &mut Vec<Token>) -> Usage {
        let mut buffered = self.lock();
        self.read_counter.read(size_of_val(&buffered.tokens[..]));
        tokens.append(&mut buffered.tokens);
        buffered.usage
    }

    /// Reader: takes all pending logprobs: at least those of the tokens whose text was taken
    /// before.
    pub(super) fn take_logprobs(&self) -> Vec<Logprob> {
        let logprobs = std::mem::take(&mut self.lock().logprobs);
        self.read_counter.read(size_of_val(&logprobs[..]));
        logprobs
    }

    /// Reader: leaves. Returns whether the request still runs, as far as the buffer knows.
    pub(super) fn close(&self) -> bool {
        self.read_counter.closed.store(true, Ordering::Relaxed);
        let mut buffered = self.lock();
        self.discard(&mut buffered);
        buffered.waker = None;
        !std::mem::replace(&mut buffered.ended, true)
    }

    /// Drops pending text, tokens and logprobs.
    fn discard(&self, buffered: &mut Buffered) {
        let text_bytes = std::mem::take(&mut buffered.text).bytes();
        let logprob_bytes = size_of_val(&std::mem::take(&mut buffered.logprobs)[..]);
        let token_bytes = size_of_val(&std::mem::take(&mut buffered.tokens)[..]);
        self.read_counter.read(text_bytes + token_bytes + logprob_bytes);
    }

    /// Applies `change` unless the request has ended.
    fn write(&self, change: impl FnOnce(&mut Buffered)) -> Option<Waker> {
        let mut buffered = self.lock();
        if buffered.ended {
            return None;
        }
        change(&mut buffered);
        buffered.waker.take()
    }

    fn lock(&self) -> MutexGuard<'_, Buffered> {
        self.buffered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn store_waker(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

//! What the serve loop tells readers, one step at a time.
//!
//! The serve loop collects a step's updates and sends them together: one lock and one wake-up of
//! the front's thread, however many streams there are. On that thread the dispatcher appends them
//! to the streams' buffers, so that a buffer's memory stays with the core that reads it. Updates
//! keep their order. The outbox has no limit of its own: the serve loop knows what was read
//! ([`super::Readers`]).

use super::stream_buffer::{End, StreamBuffer};
use crate::sched::{Refused, RequestId, Usage};
use crate::text::TextKind;
use binfer_proto::{Logprob, Tokens};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// What happened to one request.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) id: RequestId,
    pub(super) kind: UpdateKind,
}

#[derive(Debug)]
pub(super) enum UpdateKind {
    /// The scheduler took the request, or refused it.
    Admission(Result<(), Refused>),
    /// So many of the next bytes of [`StepUpdates::text`] are of this kind.
    Text(TextKind, usize),
    /// Tokens whose text comes later, for a reader that asked for them, and what the request has
    /// consumed by now.
    Tokens(Tokens, Usage),
    /// Logprobs of tokens whose text comes later: some of it may be held back.
    Logprobs(Vec<Logprob>),
    /// The one end.
    End(End),
}

/// The updates of a step, or of several that were not dispatched yet.
#[derive(Debug, Default)]
pub(super) struct StepUpdates {
    pub(super) updates: Vec<Update>,
    /// The text of all updates, in their order.
    pub(super) text: String,
}

impl StepUpdates {
    fn append(&mut self, later: &mut Self) {
        self.updates.append(&mut later.updates);
        self.text.push_str(&later.text);
        later.text.clear();
    }
}

/// Carries updates from the serve loop to the thread that reads streams.
#[derive(Debug, Default)]
pub struct Outbox {
    pending: Mutex<Pending>,
    /// Only the front's thread comes here.
    buffers: Mutex<BTreeMap<RequestId, Arc<StreamBuffer>>>,
}

#[derive(Debug, Default)]
struct Pending {
    updates: StepUpdates,
    dispatcher: Option<Waker>,
}

impl Outbox {
    /// Serve loop: sends `updates` and leaves them empty.
    pub(super) fn send(&self, updates: &mut StepUpdates) {
        if updates.updates.is_empty() {
            return;
        }
        let mut pending = lock(&self.pending);
        if pending.updates.updates.is_empty() {
            std::mem::swap(&mut pending.updates, updates);
        } else {
            pending.updates.append(updates);
        }
        let dispatcher = pending.dispatcher.take();
        drop(pending);
        if let Some(dispatcher) = dispatcher {
            dispatcher.wake();
        }
    }

    /// Front: updates of `id` go to `buffer` until it is closed.
    pub(super) fn open(&self, id: RequestId, buffer: Arc<StreamBuffer>) {
        lock(&self.buffers).insert(id, buffer);
    }

    /// Front: updates of `id` are dropped.
    pub(super) fn close(&self, id: RequestId) {
        lock(&self.buffers).remove(&id);
    }

    /// Front: the dispatcher. Appends updates to their buffers on the calling thread, for ever.
    pub(super) async fn dispatch(&self) -> Infallible {
        let mut updates = StepUpdates::default();
        poll_fn(|cx| {
            let mut pending = lock(&self.pending);
            std::mem::swap(&mut pending.updates, &mut updates);
            pending.dispatcher = Some(cx.waker().clone());
            drop(pending);
            self.append_to_buffers(&mut updates);
            Poll::Pending
        })
        .await
    }

    /// Front: dispatches what was sent by now, for a caller that cannot wait for the dispatcher.
    pub(super) fn dispatch_pending(&self) {
        let mut updates = std::mem::take(&mut lock(&self.pending).updates);
        self.append_to_buffers(&mut updates);
    }

    fn append_to_buffers(&self, step: &mut StepUpdates) {
        let buffers = lock(&self.buffers);
        let mut readers = Vec::with_capacity(step.updates.len());
        let mut text = step.text.as_str();
        for Update { id, kind } in step.updates.drain(..) {
            let buffer = buffers.get(&id);
            readers.extend(match kind {
                UpdateKind::Text(kind, len) => {
                    let (piece, rest) = text.split_at(len);
                    text = rest;
                    buffer.and_then(|buffer| buffer.text(kind, piece))
                }
                UpdateKind::Tokens(tokens, usage) => {
                    buffer.and_then(|buffer| buffer.tokens(&tokens, usage))
                }
                UpdateKind::Logprobs(logprobs) => {
                    buffer.inspect(|buffer| buffer.logprobs(&logprobs));
                    None
                }
                UpdateKind::Admission(answer) => buffer.and_then(|buffer| buffer.admission(answer)),
                UpdateKind::End(end) => buffer.and_then(|buffer| buffer.end(end)),
            });
        }
        step.text.clear();
        drop(buffers);
        // Readers are woken last: each takes all of the step, perhaps at once and on this thread.
        readers.into_iter().for_each(Waker::wake);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! What the serve loop tells readers, a whole step in one bag.
//!
//! The serve loop fills a bag of its own and hands it over once a step: one lock and one wake-up of
//! the front's thread, however many streams there are. On that thread a courier deals the letters
//! out to mailboxes, so that a mailbox's memory stays with the core that reads it. Letters keep
//! their order. Deliberately absent: any limit; the serve loop knows what was read
//! ([`super::Readers`]).

use super::stream_buffer::{End, StreamBuffer};
use crate::sched::{Refused, RequestId};
use binfer_proto::Logprob;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// News of one request.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) id: RequestId,
    pub(super) news: UpdateKind,
}

#[derive(Debug)]
pub(super) enum UpdateKind {
    /// The scheduler's answer.
    Admission(Result<(), Refused>),
    /// So many of the bag's next bytes.
    Text(usize),
    /// Logprobs of tokens whose text comes after, or is held back yet.
    Logprobs(Vec<Logprob>),
    /// The one end.
    End(End),
}

/// Letters, and the text that they bring, one after the other.
#[derive(Debug, Default)]
pub(super) struct StepUpdates {
    pub(super) letters: Vec<Update>,
    pub(super) text: String,
}

impl StepUpdates {
    fn append(&mut self, later: &mut Self) {
        self.letters.append(&mut later.letters);
        self.text.push_str(&later.text);
        later.text.clear();
    }
}

/// Between one serve loop and the front of its readers.
#[derive(Debug, Default)]
pub struct Outbox {
    handed: Mutex<Handed>,
    /// Only the front's thread comes here.
    mailboxes: Mutex<BTreeMap<RequestId, Arc<StreamBuffer>>>,
}

#[derive(Debug, Default)]
struct Handed {
    bag: StepUpdates,
    courier: Option<Waker>,
}

impl Outbox {
    /// Serve loop: hands over what is in `bag` and leaves it empty.
    pub(super) fn hand_over(&self, bag: &mut StepUpdates) {
        if bag.letters.is_empty() {
            return;
        }
        let mut handed = lock(&self.handed);
        if handed.bag.letters.is_empty() {
            std::mem::swap(&mut handed.bag, bag);
        } else {
            handed.bag.append(bag);
        }
        let courier = handed.courier.take();
        drop(handed);
        if let Some(courier) = courier {
            courier.wake();
        }
    }

    /// Front: letters for `id` go to `mailbox` until it is closed.
    pub(super) fn open(&self, id: RequestId, mailbox: Arc<StreamBuffer>) {
        lock(&self.mailboxes).insert(id, mailbox);
    }

    /// Front: letters for `id` are thrown away.
    pub(super) fn close(&self, id: RequestId) {
        lock(&self.mailboxes).remove(&id);
    }

    /// Front: deals out letters on the thread that calls this, for ever. Without it no reader hears
    /// anything.
    pub async fn deliver(&self) -> Infallible {
        let mut bag = StepUpdates::default();
        poll_fn(|cx| {
            let mut handed = lock(&self.handed);
            std::mem::swap(&mut handed.bag, &mut bag);
            handed.courier = Some(cx.waker().clone());
            drop(handed);
            self.deal_out(&mut bag);
            Poll::Pending
        })
        .await
    }

    /// Front: deals out what was handed over by now, for who cannot wait for the courier.
    pub(super) fn deal_out_handed(&self) {
        let mut bag = std::mem::take(&mut lock(&self.handed).bag);
        self.deal_out(&mut bag);
    }

    fn deal_out(&self, bag: &mut StepUpdates) {
        let mailboxes = lock(&self.mailboxes);
        let mut readers = Vec::with_capacity(bag.letters.len());
        let mut text = bag.text.as_str();
        for Update { id, news } in bag.letters.drain(..) {
            let mailbox = mailboxes.get(&id);
            readers.extend(match news {
                UpdateKind::Text(len) => {
                    let (piece, rest) = text.split_at(len);
                    text = rest;
                    mailbox.and_then(|mailbox| mailbox.text(piece))
                }
                UpdateKind::Logprobs(found) => {
                    mailbox.inspect(|mailbox| mailbox.logprobs(&found));
                    None
                }
                UpdateKind::Admission(answer) => {
                    mailbox.and_then(|mailbox| mailbox.admission(answer))
                }
                UpdateKind::End(end) => mailbox.and_then(|mailbox| mailbox.end(end)),
            });
        }
        bag.text.clear();
        drop(mailboxes);
        // Only now: each takes all that the bag had for it, perhaps at once and on this thread.
        readers.into_iter().for_each(Waker::wake);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

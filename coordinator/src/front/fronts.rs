//! The serve loop's side of all open mailboxes: one call per thing that can happen to a request.
//!
//! It never waits and never allocates per token; a request that ended is forgotten at once.

use super::budget::UnreadBudget;
use super::mailbox::{FailKind, Mailbox};
use crate::sched::{Finish, Refused, RequestId, Usage};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;

/// Mailboxes of the requests that run.
#[derive(Debug)]
pub struct Fronts {
    open: BTreeMap<RequestId, Arc<Mailbox>>,
    /// Readers to be woken.
    due: Vec<Waker>,
    budget: Arc<UnreadBudget>,
}

impl Fronts {
    /// None open.
    pub fn new(budget: Arc<UnreadBudget>) -> Self {
        Self { open: BTreeMap::new(), due: Vec::new(), budget }
    }

    /// Tells the reader what the scheduler said to its request.
    pub fn admit(&mut self, id: RequestId, mailbox: Arc<Mailbox>, answer: Result<(), Refused>) {
        match answer {
            Ok(()) => {
                mailbox.admit();
                self.open.insert(id, mailbox);
            }
            Err(why) => mailbox.refuse(why),
        }
    }

    /// More text for a request; its reader learns of it with the next [`Fronts::wake`].
    pub fn text(&mut self, id: RequestId, text: &str) {
        if let Some(mailbox) = self.open.get(&id) {
            self.due.extend(mailbox.text(text));
        }
    }

    /// Wakes all readers that wait for text which came since the last call. Once a step, after the
    /// next plan: a reader that wakes takes time from the serve loop.
    pub fn wake(&mut self) {
        self.due.drain(..).for_each(Waker::wake);
    }

    /// The end of a request as the scheduler saw it.
    pub fn done(&mut self, id: RequestId, finish: Finish, usage: Usage) {
        let Some(mailbox) = self.open.remove(&id) else { return };
        match finish {
            Finish::Stop | Finish::Length | Finish::StopString => mailbox.done(finish, usage),
            Finish::Failed(cause) => mailbox.fail(cause.into(), cause.to_string()),
            Finish::Cancelled => mailbox.fail(FailKind::Internal, "cancelled".to_owned()),
        }
    }

    /// The end of one request by failure.
    pub fn fail(&mut self, id: RequestId, kind: FailKind, message: &str) {
        if let Some(mailbox) = self.open.remove(&id) {
            mailbox.fail(kind, message.to_owned());
        }
    }

    /// The end of every request by failure.
    pub fn fail_all(&mut self, kind: FailKind, message: &str) {
        for mailbox in std::mem::take(&mut self.open).into_values() {
            mailbox.fail(kind, message.to_owned());
        }
    }

    /// A request that nobody reads any more, to be cancelled. (A `Cancel` command may be lost when
    /// the channel is full; this is not.)
    pub fn abandoned(&self) -> Option<RequestId> {
        self.open.iter().find(|(_, mailbox)| mailbox.is_closed()).map(|(id, _)| *id)
    }

    /// While more text is unread than allowed: the request with the most, to be cancelled.
    pub fn slowest(&self) -> Option<RequestId> {
        if !self.budget.is_over() {
            return None;
        }
        self.open.iter().max_by_key(|(_, mailbox)| mailbox.unread_bytes()).map(|(id, _)| *id)
    }

    /// Number of requests with a reader.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether no request has a reader.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

/// A serve loop that ends, however, leaves nobody waiting.
impl Drop for Fronts {
    fn drop(&mut self) {
        self.fail_all(FailKind::Internal, "the server has stopped");
    }
}

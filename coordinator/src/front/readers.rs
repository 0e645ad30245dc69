//! The serve loop's side of all readers: one call per thing that can happen to a request.
//!
//! It never waits and never allocates per token. What is said reaches readers with the next
//! [`Readers::send`]. Unread text is kept under one cap for all: over it, the reader with the most
//! pays. A request that ended counts until its text is read.

use super::outbox::{Outbox, StepUpdates, Update, UpdateKind};
use super::stream_buffer::{End, FailKind, ReadCounter};
use crate::sched::{Finish, Refused, RequestId, Usage};
use binfer_proto::Logprob;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Readers of the requests that run.
#[derive(Debug)]
pub struct Readers {
    open: BTreeMap<RequestId, Reader>,
    /// Of requests that are over.
    ended: Vec<Reader>,
    bag: StepUpdates,
    outbox: Arc<Outbox>,
    unread_bytes_max: u64,
}

#[derive(Debug)]
struct Reader {
    read_counter: Arc<ReadCounter>,
    sent_bytes: u64,
}

impl Reader {
    fn unread_bytes(&self) -> u64 {
        match self.read_counter.is_closed() {
            true => 0,
            false => self.sent_bytes.saturating_sub(self.read_counter.read_bytes()),
        }
    }
}

impl Readers {
    /// None open; readers may leave `unread_bytes_max` bytes unread together.
    pub fn new(outbox: Arc<Outbox>, unread_bytes_max: u64) -> Self {
        let (open, ended, bag) = (BTreeMap::new(), Vec::new(), StepUpdates::default());
        Self { open, ended, bag, outbox, unread_bytes_max }
    }

    /// Tells the reader what the scheduler said to its request.
    pub fn admit(
        &mut self,
        id: RequestId,
        read_counter: Arc<ReadCounter>,
        answer: Result<(), Refused>,
    ) {
        if answer.is_ok() {
            self.open.insert(id, Reader { read_counter, sent_bytes: 0 });
        }
        self.bag.letters.push(Update { id, news: UpdateKind::Admission(answer) });
    }

    /// More text for a request.
    pub fn text(&mut self, id: RequestId, text: &str) {
        if text.is_empty() {
            return;
        }
        if let Some(reader) = self.open.get_mut(&id) {
            reader.sent_bytes += text.len() as u64;
            self.bag.text.push_str(text);
            self.bag.letters.push(Update { id, news: UpdateKind::Text(text.len()) });
        }
    }

    /// Logprobs of the tokens of a request, before their text.
    pub fn logprobs(&mut self, id: RequestId, found: &[Logprob]) {
        if found.is_empty() {
            return;
        }
        if let Some(reader) = self.open.get_mut(&id) {
            reader.sent_bytes += size_of_val(found) as u64;
            self.bag.letters.push(Update { id, news: UpdateKind::Logprobs(found.to_vec()) });
        }
    }

    /// Hands over what was said since the last call. Once a step, after the next plan: a reader
    /// that wakes takes time from the serve loop.
    pub fn send(&mut self) {
        self.outbox.hand_over(&mut self.bag);
    }

    /// The end of a request as the scheduler saw it.
    pub fn done(&mut self, id: RequestId, finish: Finish, usage: Usage) {
        let end = match finish {
            Finish::Stop | Finish::Length | Finish::StopString => End::Done { finish, usage },
            Finish::Failed(cause) => End::Failed { message: cause.to_string(), kind: cause.into() },
            Finish::Cancelled => {
                End::Failed { message: "cancelled".to_owned(), kind: FailKind::Internal }
            }
        };
        self.end(id, end);
    }

    /// The end of one request by failure.
    pub fn fail(&mut self, id: RequestId, kind: FailKind, message: &str) {
        self.end(id, End::Failed { message: message.to_owned(), kind });
    }

    /// The end of every request by failure, at once.
    pub fn fail_all(&mut self, kind: FailKind, message: &str) {
        while let Some((id, _)) = self.open.first_key_value() {
            self.fail(*id, kind, message);
        }
        self.send();
    }

    fn end(&mut self, id: RequestId, end: End) {
        let Some(reader) = self.open.remove(&id) else { return };
        // What a slow reader has not read is dropped with this end.
        if !matches!(end, End::Failed { kind: FailKind::SlowReader, .. }) {
            self.ended.push(reader);
        }
        self.bag.letters.push(Update { id, news: UpdateKind::End(end) });
    }

    /// A request that nobody reads any more, to be cancelled. (A `Cancel` command may be lost when
    /// the channel is full; this is not.)
    pub fn abandoned(&self) -> Option<RequestId> {
        self.open.iter().find(|(_, reader)| reader.read_counter.is_closed()).map(|(id, _)| *id)
    }

    /// While more text is unread than allowed: the request with the most, to be failed.
    pub fn slowest(&mut self) -> Option<RequestId> {
        if self.unread_bytes() <= self.unread_bytes_max {
            return None;
        }
        let unread = self.open.iter().map(|(id, reader)| (reader.unread_bytes(), *id));
        unread.max().filter(|(bytes, _)| *bytes > 0).map(|(_, id)| id)
    }

    /// Text that was sent and not read yet, over all requests.
    pub fn unread_bytes(&mut self) -> u64 {
        self.ended.retain(|reader| reader.unread_bytes() > 0);
        self.open.values().chain(&self.ended).map(Reader::unread_bytes).sum()
    }

    /// Number of requests that run and have a reader.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether no request has a reader.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

/// A serve loop that ends, however, leaves nobody waiting.
impl Drop for Readers {
    fn drop(&mut self) {
        self.fail_all(FailKind::Internal, "the server has stopped");
    }
}

//! The serve loop's side of all readers: one call for each thing that can happen to a request.
//!
//! It never waits and never allocates per token. Updates reach readers with the next
//! [`Readers::send`]. All unread text is kept under one cap. Over it, the reader with the most
//! unread text is cut off. A request that ended counts until its text is read.

use super::outbox::{Outbox, StepUpdates, Update, UpdateKind};
use super::stream_buffer::{End, FailKind, ReadCounter};
use crate::sched::{Finish, Refused, RequestId, Usage};
use crate::text::{TextEnd, TextPieces};
use binfer_proto::{Logprob, Tokens};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Readers of the requests that run.
#[derive(Debug)]
pub struct Readers {
    open: BTreeMap<RequestId, Reader>,
    /// Readers of requests that have ended.
    ended: Vec<Reader>,
    updates: StepUpdates,
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
    /// No readers yet. Together they may leave `unread_bytes_max` bytes unread.
    pub fn new(outbox: Arc<Outbox>, unread_bytes_max: u64) -> Self {
        Self {
            open: BTreeMap::new(),
            ended: Vec::new(),
            updates: StepUpdates::default(),
            outbox,
            unread_bytes_max,
        }
    }

    /// The scheduler took a request, or refused it.
    pub fn admit(
        &mut self,
        id: RequestId,
        read_counter: Arc<ReadCounter>,
        answer: Result<(), Refused>,
    ) {
        if answer.is_ok() {
            self.open.insert(id, Reader { read_counter, sent_bytes: 0 });
        }
        self.push(id, UpdateKind::Admission(answer));
    }

    /// There is more text for a request.
    pub fn text(&mut self, id: RequestId, text: &TextPieces) {
        let Some(reader) = self.open.get_mut(&id) else { return };
        reader.sent_bytes += text.bytes() as u64;
        for (kind, piece) in text.iter() {
            self.updates.text.push_str(piece);
            self.push(id, UpdateKind::Text(kind, piece.len()));
        }
    }

    /// There are tokens of a request, which has consumed so much by now. They come before their
    /// text.
    pub fn tokens(&mut self, id: RequestId, tokens: &Tokens, usage: Usage) {
        let reader = self.open.get_mut(&id).filter(|reader| reader.read_counter.token_ids());
        if let Some(reader) = reader.filter(|_| !tokens.is_empty()) {
            reader.sent_bytes += size_of_val(&tokens[..]) as u64;
            self.push(id, UpdateKind::Tokens(tokens.clone(), usage));
        }
    }

    /// There are logprobs of tokens of a request. They come before the tokens' text.
    pub fn logprobs(&mut self, id: RequestId, logprobs: &[Logprob]) {
        if logprobs.is_empty() {
            return;
        }
        if let Some(reader) = self.open.get_mut(&id) {
            reader.sent_bytes += size_of_val(logprobs) as u64;
            self.push(id, UpdateKind::Logprobs(logprobs.to_vec()));
        }
    }

    /// Sends the updates since the last call. Called once a step, after the next plan: a reader
    /// that wakes takes time from the serve loop.
    pub fn send(&mut self) {
        self.outbox.send(&mut self.updates);
    }

    /// A request ended as the scheduler says. Its text said the rest of how.
    pub fn done(&mut self, id: RequestId, finish: Finish, usage: Usage, text: TextEnd) {
        let end = match finish {
            Finish::Stop | Finish::Length | Finish::StopString(_) => {
                End::Done { finish, usage, text }
            }
            Finish::Failed(cause) => End::Failed { message: cause.to_string(), kind: cause.into() },
            Finish::Cancelled => {
                End::Failed { message: "cancelled".to_owned(), kind: FailKind::Internal }
            }
        };
        self.end(id, end);
    }

    /// A request failed.
    pub fn fail(&mut self, id: RequestId, kind: FailKind, message: &str) {
        self.end(id, End::Failed { message: message.to_owned(), kind });
    }

    /// Every request failed. Sends the updates.
    pub fn fail_all(&mut self, kind: FailKind, message: &str) {
        while let Some((id, _)) = self.open.first_key_value() {
            self.fail(*id, kind, message);
        }
        self.send();
    }

    fn end(&mut self, id: RequestId, end: End) {
        let Some(reader) = self.open.remove(&id) else { return };
        // This end drops what a slow reader has not read, so it does not count any more.
        if !matches!(end, End::Failed { kind: FailKind::SlowReader, .. }) {
            self.ended.push(reader);
        }
        self.push(id, UpdateKind::End(end));
    }

    fn push(&mut self, id: RequestId, kind: UpdateKind) {
        self.updates.updates.push(Update { id, kind });
    }

    /// A request that nobody reads any more, to be cancelled. (A `Cancel` command may be lost when
    /// the channel is full; this is not.)
    pub fn abandoned(&self) -> Option<RequestId> {
        self.open.iter().find(|(_, reader)| reader.read_counter.is_closed()).map(|(id, _)| *id)
    }

    /// The request with the most unread text, to be failed, while more is unread than allowed.
    pub fn slowest(&mut self) -> Option<RequestId> {
        if self.unread_bytes() <= self.unread_bytes_max {
            return None;
        }
        let unread = self.open.iter().map(|(id, reader)| (reader.unread_bytes(), *id));
        unread.max().filter(|(bytes, _)| *bytes > 0).map(|(_, id)| id)
    }

    /// Bytes of all requests that were sent and not read yet.
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

/// A serve loop that ends, however it does, leaves nobody waiting.
impl Drop for Readers {
    fn drop(&mut self) {
        self.fail_all(FailKind::Internal, "the server has stopped");
    }
}

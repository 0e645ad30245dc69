//! The reader's end of a request.
//!
//! Dropping a stream before its end cancels the request: that is how a client that leaves frees
//! its blocks.

use super::ServeCommand;
use super::core::CoreParts;
use super::outbox::Outbox;
use super::stream_buffer::{End, FailKind, StreamBuffer};
use crate::sched::{Finish, Request, RequestId, Usage};
use binfer_proto::Logprob;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// What a reader gets: text, and then exactly one of the other two.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamEvent {
    /// More text.
    Text(String),
    /// The ordinary end.
    Done {
        /// Why it ended.
        finish: Finish,
        /// What it consumed.
        usage: Usage,
    },
    /// The end by failure.
    Failed {
        /// For the client; names the cause.
        message: String,
        /// For the status code.
        kind: FailKind,
    },
}

/// An admitted request's answer.
#[derive(Debug)]
pub struct AnswerStream {
    id: RequestId,
    logprobs: u8,
    mailbox: Arc<StreamBuffer>,
    outbox: Arc<Outbox>,
    commands: mpsc::Sender<ServeCommand>,
    end: Option<End>,
}

impl AnswerStream {
    /// From here on letters for the request go to `mailbox`.
    pub(super) fn open(request: &Request, mailbox: Arc<StreamBuffer>, parts: &CoreParts) -> Self {
        let (id, logprobs) = (request.id, request.logprobs);
        let (outbox, commands) = (Arc::clone(&parts.outbox), parts.commands.clone());
        outbox.open(id, Arc::clone(&mailbox));
        Self { id, logprobs, mailbox, outbox, commands, end: None }
    }

    /// The request.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Appends all pending text to `text` and returns the end if it was reached. Ready means that
    /// there was text, or the end, or both; pending that there was neither. Without an end `cx` is
    /// woken for what comes next.
    pub fn poll_take(&self, cx: &Context<'_>, text: &mut String) -> Poll<Option<End>> {
        self.mailbox.poll_take(cx, text)
    }

    /// How many logprobs come with each token.
    pub fn logprobs(&self) -> u8 {
        self.logprobs
    }

    /// Logprobs that came by now, where the request asked for them: those of at least the tokens
    /// whose text was taken before.
    pub fn take_logprobs(&self) -> Vec<Logprob> {
        if self.logprobs > 0 { self.mailbox.take_logprobs() } else { Vec::new() }
    }

    /// The next reply. Must not be called again after an end.
    pub async fn next(&mut self) -> StreamEvent {
        if let Some(end) = self.end.take() {
            return end.into();
        }
        let mut text = String::new();
        let end = poll_fn(|cx| self.mailbox.poll_take(cx, &mut text)).await;
        match end {
            Some(end) if text.is_empty() => end.into(),
            end => {
                self.end = end;
                StreamEvent::Text(text)
            }
        }
    }
}

impl From<End> for StreamEvent {
    fn from(end: End) -> Self {
        match end {
            End::Done { finish, usage } => Self::Done { finish, usage },
            End::Failed { message, kind } => Self::Failed { message, kind },
        }
    }
}

impl Drop for AnswerStream {
    fn drop(&mut self) {
        self.outbox.close(self.id);
        if self.mailbox.close() {
            // A full channel is no loss: the serve loop also asks `Readers::abandoned`.
            let _ = self.commands.try_send(ServeCommand::Cancel(self.id));
        }
    }
}

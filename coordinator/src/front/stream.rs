//! The reader's end of a request.
//!
//! Dropping a stream before its end cancels the request: that is how a client that leaves frees
//! its blocks.

use super::Command;
use super::core::Parts;
use super::mailbox::{End, FailKind, Mailbox};
use super::post::Post;
use crate::sched::{Finish, Request, RequestId, Usage};
use binfer_proto::Logprob;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// What a reader gets: text, and then exactly one of the other two.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
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
pub struct Stream {
    id: RequestId,
    logprobs: u8,
    mailbox: Arc<Mailbox>,
    post: Arc<Post>,
    commands: mpsc::Sender<Command>,
    end: Option<End>,
}

impl Stream {
    /// From here on letters for the request go to `mailbox`.
    pub(super) fn open(request: &Request, mailbox: Arc<Mailbox>, parts: &Parts) -> Self {
        let (id, logprobs) = (request.id, request.logprobs);
        let (post, commands) = (Arc::clone(&parts.post), parts.commands.clone());
        post.open(id, Arc::clone(&mailbox));
        Self { id, logprobs, mailbox, post, commands, end: None }
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
    pub async fn next(&mut self) -> Reply {
        if let Some(end) = self.end.take() {
            return end.into();
        }
        let mut text = String::new();
        let end = poll_fn(|cx| self.mailbox.poll_take(cx, &mut text)).await;
        match end {
            Some(end) if text.is_empty() => end.into(),
            end => {
                self.end = end;
                Reply::Text(text)
            }
        }
    }
}

impl From<End> for Reply {
    fn from(end: End) -> Self {
        match end {
            End::Done { finish, usage } => Self::Done { finish, usage },
            End::Failed { message, kind } => Self::Failed { message, kind },
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.post.close(self.id);
        if self.mailbox.close() {
            // A full channel is no loss: the serve loop also asks `Fronts::abandoned`.
            let _ = self.commands.try_send(Command::Cancel(self.id));
        }
    }
}

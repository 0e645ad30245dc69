//! The reader's end of a request.
//!
//! Dropping a stream before its end cancels the request. In this way a client that leaves frees
//! its blocks.

use super::command::ServeCommand;
use super::outbox::Outbox;
use super::stream_buffer::{End, StreamBuffer};
use crate::sched::{Request, RequestId, Usage};
use crate::text::TextPieces;
use binfer_proto::{Logprob, Token};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// What a reader gets: texts, and then exactly one end.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamEvent {
    /// More text.
    Text(TextPieces),
    /// The one terminal event.
    End(End),
}

/// An admitted request's answer.
#[derive(Debug)]
pub struct AnswerStream {
    id: RequestId,
    logprobs: u8,
    prompt: Vec<Token>,
    prompt_tokens: u32,
    buffer: Arc<StreamBuffer>,
    outbox: Arc<Outbox>,
    commands: mpsc::Sender<ServeCommand>,
    end: Option<End>,
}

impl AnswerStream {
    /// From here on updates of the request go to `buffer`.
    pub(super) fn open(
        request: &Request,
        wants_tokens: bool,
        buffer: Arc<StreamBuffer>,
        outbox: Arc<Outbox>,
        commands: mpsc::Sender<ServeCommand>,
    ) -> Self {
        let (id, logprobs) = (request.id, request.logprobs);
        outbox.open(id, Arc::clone(&buffer));
        let prompt = if wants_tokens { request.prompt.clone() } else { Vec::new() };
        let prompt_tokens = u32::try_from(request.prompt.len()).unwrap_or(u32::MAX);
        Self { id, logprobs, prompt, prompt_tokens, buffer, outbox, commands, end: None }
    }

    /// The request's id.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Appends all pending text to `text` and returns the end if it was reached. It is ready when
    /// there was text, or the end, or both. Without an end `cx` is woken for what comes next.
    pub fn poll_take(&self, cx: &Context<'_>, text: &mut TextPieces) -> Poll<Option<End>> {
        self.buffer.poll_take(cx, text)
    }

    /// How many logprobs come with each token.
    pub fn logprobs(&self) -> u8 {
        self.logprobs
    }

    /// Appends the tokens that came by now to `tokens`, where the request asked for them: at least
    /// those whose text was taken before. An end token is not among them. Returns what the request
    /// had consumed with the last of them, once there was one.
    pub fn take_tokens(&self, tokens: &mut Vec<Token>) -> Usage {
        self.buffer.take_tokens(tokens)
    }

    /// Logprobs that came by now, where the request asked for them: at least those of the tokens
    /// whose text was taken before.
    pub fn take_logprobs(&self) -> Vec<Logprob> {
        if self.logprobs > 0 { self.buffer.take_logprobs() } else { Vec::new() }
    }

    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> u32 {
        self.prompt_tokens
    }

    /// The prompt, where the request asked for tokens.
    pub fn prompt(&self) -> &[Token] {
        &self.prompt
    }

    /// The next event. Must not be called again after an end.
    pub async fn next(&mut self) -> StreamEvent {
        if let Some(end) = self.end.take() {
            return StreamEvent::End(end);
        }
        let mut text = TextPieces::default();
        let end = poll_fn(|cx| self.buffer.poll_take(cx, &mut text)).await;
        match end {
            Some(end) if text.is_empty() => StreamEvent::End(end),
            end => {
                self.end = end;
                StreamEvent::Text(text)
            }
        }
    }
}

impl Drop for AnswerStream {
    fn drop(&mut self) {
        self.outbox.close(self.id);
        if self.buffer.close() {
            // A full channel is no loss: the serve loop also asks `Readers::abandoned`.
            let _ = self.commands.try_send(ServeCommand::Cancel(self.id));
        }
    }
}

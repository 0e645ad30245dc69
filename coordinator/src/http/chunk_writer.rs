//! The chunks of a streamed answer, each a server-sent event.

use super::answer::AnswerHeader;
use super::chunk_frame::ChunkFrame;
use super::endpoint::Endpoint;
use super::error::ApiError;
use super::logprobs::LogprobsWriter;
use super::request::AnswerExtras;
use crate::front::{AnswerStream, End};
use crate::sched::{Finish, Usage};
use crate::text::{TextEnd, TextKind, TextPieces};
use binfer_proto::{Logprob, Token};
use bytes::{BufMut, BytesMut};
use serde_json::{Value, json};

/// Writes the chunks of one of a request's streamed answers.
#[derive(Debug)]
pub(super) struct ChunkWriter {
    header: AnswerHeader,
    extras: AnswerExtras,
    /// Present where the request asked for logprobs.
    logprobs: Option<LogprobsWriter>,
    prompt: Vec<Token>,
    /// What the request had consumed with the last token that was written.
    usage: Usage,
    content: ChunkFrame,
    reasoning: ChunkFrame,
}

impl ChunkWriter {
    pub(super) fn new(
        header: AnswerHeader,
        extras: AnswerExtras,
        answer: &AnswerStream,
        logprobs: Option<LogprobsWriter>,
    ) -> Self {
        let usage = extras.usage_at_end.then_some(&Value::Null);
        let frame = |kind| {
            let choices = header.text_choice(kind, ChunkFrame::PLACEHOLDER);
            ChunkFrame::new(&header.chunk_json(&choices, usage).to_string())
        };
        let (content, reasoning) = (frame(TextKind::Content), frame(TextKind::Reasoning));
        let prompt = answer.prompt().to_vec();
        let usage = Usage { prompt: answer.prompt_tokens(), ..Usage::default() };
        Self { header, extras, logprobs, prompt, usage, content, reasoning }
    }

    /// The first chunk: it names a chat's role, and has the prompt's tokens where they were asked
    /// for.
    pub(super) fn opening(&self, out: &mut BytesMut) {
        let mut choices = match self.header.endpoint {
            Endpoint::Chat => {
                self.header.chat_choice(json!({ "role": "assistant", "content": "" }))
            }
            Endpoint::Completion if self.extras.token_ids => {
                self.header.text_choice(TextKind::Content, "")
            }
            Endpoint::Completion => return,
        };
        let mut chunk = self.chunk_json(&choices, None);
        if self.extras.token_ids {
            match self.header.endpoint {
                Endpoint::Chat => chunk["prompt_token_ids"] = json!(self.prompt),
                Endpoint::Completion => {
                    choices[0]["prompt_token_ids"] = json!(self.prompt);
                    chunk["choices"] = choices;
                }
            }
        }
        put_event(&chunk.to_string(), out);
    }

    /// What came by now of the answer beside its text.
    pub(super) fn take_tokens(&mut self, answer: &AnswerStream) -> NewTokens {
        let (logprobs, mut ids) = (answer.take_logprobs(), Vec::new());
        if self.extras.wants_tokens() {
            let usage = answer.take_tokens(&mut ids);
            self.usage.generated = self.usage.generated.max(usage.generated);
        }
        NewTokens { logprobs, ids }
    }

    /// A chunk for each piece of text. What belongs to the tokens goes with the first one.
    pub(super) fn text(&mut self, text: &TextPieces, new: &NewTokens, out: &mut BytesMut) {
        let NewTokens { logprobs, ids } = new;
        let ids = Some(ids).filter(|ids| self.extras.token_ids && !ids.is_empty());
        let mut pieces = text.iter();
        if ids.is_some() || !logprobs.is_empty() {
            let (kind, first) = pieces.next().unwrap_or((TextKind::Content, ""));
            let mut choices = self.header.text_choice(kind, first);
            if let Some(writer) = self.logprobs.as_mut().filter(|_| !logprobs.is_empty()) {
                choices[0]["logprobs"] = writer.json(logprobs);
            }
            if let Some(ids) = ids {
                choices[0]["token_ids"] = json!(ids);
            }
            put_event(&self.chunk_json(&choices, None).to_string(), out);
        }
        for (kind, piece) in pieces {
            match kind {
                _ if self.extras.usage_in_chunks => {
                    let choices = self.header.text_choice(kind, piece);
                    put_event(&self.chunk_json(&choices, None).to_string(), out);
                }
                TextKind::Content => self.content.write(piece, out),
                TextKind::Reasoning => self.reasoning.write(piece, out),
            }
        }
    }

    /// The chunk that says how the answer ended.
    pub(super) fn done(&self, ended: &Ended, out: &mut BytesMut) {
        let Ended { finish, usage, text } = ended;
        let (finish, usage) = (*finish, *usage);
        let mut last = self.header.last_choice(finish, text.stop_reason.as_ref());
        if let Some(end) = text.end_token.filter(|_| self.extras.token_ids) {
            last[0]["token_ids"] = json!([end]);
        }
        let usage = self.header.usage(usage, text.reasoning_tokens);
        let in_chunk = Some(&usage).filter(|_| self.extras.usage_in_chunks);
        put_event(&self.chunk_json(&last, in_chunk).to_string(), out);
    }

    /// What follows the last of a request's answers: the counts of all, where they were asked for.
    pub(super) fn all_done(&self, ended: &[Ended], out: &mut BytesMut) {
        if self.extras.usage_at_end {
            let (usage, reasoning_tokens) = total(ended);
            let usage = self.header.usage(usage, reasoning_tokens);
            put_event(&self.chunk_json(&json!([]), Some(&usage)).to_string(), out);
        }
        out.put_slice(b"data: [DONE]\n\n");
    }

    /// A chunk with these choices and counts, by default those that every chunk has.
    fn chunk_json(&self, choices: &Value, usage: Option<&Value>) -> Value {
        let by_now = match (self.extras.usage_in_chunks, self.extras.usage_at_end) {
            (true, _) => Some(AnswerHeader::usage_by_now(self.usage)),
            (false, at_end) => at_end.then_some(Value::Null),
        };
        self.header.chunk_json(choices, usage.or(by_now.as_ref()))
    }
}

/// What came of an answer beside its text.
#[derive(Debug)]
pub(super) struct NewTokens {
    pub(super) logprobs: Vec<Logprob>,
    /// Present where the request asked for tokens.
    ids: Vec<Token>,
}

/// How an answer ended in order.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) finish: Finish,
    pub(super) usage: Usage,
    pub(super) text: TextEnd,
}

/// What all answers of a request consumed together, its prompt counted once, and how many tokens
/// were reasoning.
pub(super) fn total(ended: &[Ended]) -> (Usage, u32) {
    let sum = |of: fn(&Ended) -> u32| ended.iter().map(of).fold(0, u32::saturating_add);
    let first = ended.first().map(|one| one.usage).unwrap_or_default();
    let usage = Usage { generated: sum(|one| one.usage.generated), ..first };
    (usage, sum(|one| one.text.reasoning_tokens))
}

/// How an answer ended, or the error of one that failed.
pub(super) fn ended(end: End) -> Result<Ended, ApiError> {
    match end {
        End::Done { finish, usage, text } => Ok(Ended { finish, usage, text }),
        End::Failed { message, kind } => Err(ApiError::failed(kind, message)),
    }
}

/// The last event of an answer that failed. No `[DONE]` follows.
pub(super) fn put_failure(error: &ApiError, request_id: &str, out: &mut BytesMut) {
    put_event(&error.json(request_id).to_string(), out);
}

fn put_event(data: &str, out: &mut BytesMut) {
    out.put_slice(b"data: ");
    out.put_slice(data.as_bytes());
    out.put_slice(b"\n\n");
}

//! The JSON of an answer, in full and in chunks.

use super::chunk_frame::ChunkFrame;
use super::endpoint::Endpoint;
use super::error::ApiError;
use super::logprobs::LogprobsWriter;
use crate::front::ModelInfo;
use crate::sched::{Finish, RequestId, Usage};
use crate::text::{TextKind, TextPieces};
use binfer_proto::Logprob;
use bytes::{BufMut, BytesMut};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// The names under which clients look for reasoning: that of most servers, and vLLM's newer one.
const REASONING: [&str; 2] = ["reasoning_content", "reasoning"];

/// What all chunks of one answer share.
#[derive(Clone, Debug)]
pub(super) struct AnswerHeader {
    pub(super) endpoint: Endpoint,
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
}

impl AnswerHeader {
    pub(super) fn new(endpoint: Endpoint, id: RequestId, model: &ModelInfo) -> Self {
        let prefix = match endpoint {
            Endpoint::Completion => "cmpl",
            Endpoint::Chat => "chatcmpl",
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self {
            endpoint,
            // Request ids begin anew with the server, so its start is a part of the id.
            id: format!("{prefix}-{:x}-{:x}", model.created, id.0),
            created: now,
            model: model.name.clone(),
        }
    }

    /// The full response. A chat's message has its reasoning beside its content, which is null
    /// where the answer ended before it began.
    pub(super) fn full_response(
        &self,
        text: &TextPieces,
        logprobs: &Value,
        finish: Finish,
        usage: &Value,
    ) -> Value {
        let finish = finish_reason(finish);
        let content = text.text_of(TextKind::Content);
        let (object, choice) = match self.endpoint {
            Endpoint::Completion => (
                "text_completion",
                json!({
                    "index": 0, "text": content, "logprobs": logprobs, "finish_reason": finish,
                }),
            ),
            Endpoint::Chat => {
                let mut message =
                    json!({ "role": "assistant", "content": content, "refusal": null });
                let reasoning = text.text_of(TextKind::Reasoning);
                if !reasoning.is_empty() {
                    REASONING.iter().for_each(|name| message[*name] = json!(reasoning));
                    if content.is_empty() {
                        message["content"] = Value::Null;
                    }
                }
                let choice = json!({
                    "index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish,
                });
                ("chat.completion", choice)
            }
        };
        let Self { id, created, model, .. } = self;
        json!({
            "id": id, "object": object, "created": created, "model": model, "choices": [choice],
            "usage": usage,
        })
    }

    /// What an answer consumed. Answers in chats say how many of their tokens were reasoning.
    pub(super) fn usage(&self, usage: Usage, reasoning_tokens: u32) -> Value {
        let mut json = json!({
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.generated,
            "total_tokens": usage.prompt.saturating_add(usage.generated),
            "prompt_tokens_details": { "cached_tokens": usage.cached },
        });
        if self.endpoint == Endpoint::Chat {
            json["completion_tokens_details"] = json!({ "reasoning_tokens": reasoning_tokens });
        }
        json
    }

    /// A chunk with these choices.
    fn chunk_json(&self, choices: &Value, usage: Option<&Value>) -> String {
        let object = match self.endpoint {
            Endpoint::Completion => "text_completion",
            Endpoint::Chat => "chat.completion.chunk",
        };
        let Self { id, created, model, .. } = self;
        let mut chunk = json!({
            "id": id, "object": object, "created": created, "model": model, "choices": choices,
        });
        if let Some(usage) = usage {
            chunk["usage"] = usage.clone();
        }
        chunk.to_string()
    }

    fn text_choice(&self, kind: TextKind, text: &str) -> Value {
        match (self.endpoint, kind) {
            (Endpoint::Completion, _) => json!([{
                "index": 0, "text": text, "logprobs": null, "finish_reason": null,
            }]),
            (Endpoint::Chat, TextKind::Content) => chat_choice(json!({ "content": text })),
            (Endpoint::Chat, TextKind::Reasoning) => {
                chat_choice(REASONING.map(|name| (name, text)).into_iter().collect())
            }
        }
    }

    fn last_choice(&self, finish: Finish) -> Value {
        let mut choice = match self.endpoint {
            Endpoint::Completion => self.text_choice(TextKind::Content, ""),
            Endpoint::Chat => chat_choice(json!({})),
        };
        choice[0]["finish_reason"] = finish_reason(finish).into();
        choice
    }
}

fn chat_choice(delta: Value) -> Value {
    json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": null }])
}

/// Writes the chunks of one streamed answer, each as a server-sent event.
#[derive(Debug)]
pub(super) struct ChunkWriter {
    header: AnswerHeader,
    include_usage: bool,
    /// Present where the request asked for logprobs.
    logprobs: Option<LogprobsWriter>,
    content: ChunkFrame,
    reasoning: ChunkFrame,
}

impl ChunkWriter {
    pub(super) fn new(
        header: AnswerHeader,
        include_usage: bool,
        logprobs: Option<LogprobsWriter>,
    ) -> Self {
        let usage = include_usage.then_some(&Value::Null);
        let frame = |kind| {
            let choices = header.text_choice(kind, ChunkFrame::PLACEHOLDER);
            ChunkFrame::new(&header.chunk_json(&choices, usage))
        };
        let (content, reasoning) = (frame(TextKind::Content), frame(TextKind::Reasoning));
        Self { header, include_usage, logprobs, content, reasoning }
    }

    /// The first chunk, which in a chat names the role.
    pub(super) fn opening(&self, out: &mut BytesMut) {
        if self.header.endpoint == Endpoint::Chat {
            let choices = chat_choice(json!({ "role": "assistant", "content": "" }));
            self.chunk(&choices, None, out);
        }
    }

    /// A chunk for each piece of text. Logprobs go with the first one.
    pub(super) fn text(&mut self, text: &TextPieces, logprobs: &[Logprob], out: &mut BytesMut) {
        let mut pieces = text.iter();
        if let Some(writer) = self.logprobs.as_mut().filter(|_| !logprobs.is_empty()) {
            let (kind, first) = pieces.next().unwrap_or((TextKind::Content, ""));
            let mut choices = self.header.text_choice(kind, first);
            choices[0]["logprobs"] = writer.json(logprobs);
            self.chunk(&choices, None, out);
        }
        for (kind, piece) in pieces {
            match kind {
                TextKind::Content => self.content.write(piece, out),
                TextKind::Reasoning => self.reasoning.write(piece, out),
            }
        }
    }

    /// The last chunks of an answer that ended in order.
    pub(super) fn done(
        &self,
        finish: Finish,
        usage: Usage,
        reasoning_tokens: u32,
        out: &mut BytesMut,
    ) {
        self.chunk(&self.header.last_choice(finish), None, out);
        if self.include_usage {
            let usage = self.header.usage(usage, reasoning_tokens);
            self.chunk(&json!([]), Some(&usage), out);
        }
        out.put_slice(b"data: [DONE]\n\n");
    }

    fn chunk(&self, choices: &Value, usage: Option<&Value>, out: &mut BytesMut) {
        let usage = usage.or(self.include_usage.then_some(&Value::Null));
        put_event(&self.header.chunk_json(choices, usage), out);
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

fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Length => "length",
        Finish::Stop | Finish::StopString(_) | Finish::Cancelled | Finish::Failed(_) => "stop",
    }
}

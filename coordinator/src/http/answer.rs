//! The JSON of an answer, in full and in chunks.
//!
//! Thousands of chunks a second are written here. All of a chunk but its text is the same for a
//! whole answer, so it is rendered once and the text is written between its halves.

use super::endpoint::Endpoint;
use super::error::ApiError;
use super::logprobs::LogprobsWriter;
use crate::front::ModelInfo;
use crate::sched::{Finish, RequestId, Usage};
use binfer_proto::Logprob;
use bytes::{BufMut, BytesMut};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

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

    /// The full response.
    pub(super) fn full_response(
        &self,
        text: &str,
        logprobs: &Value,
        (finish, usage): (Finish, Usage),
    ) -> Value {
        let finish = finish_reason(finish);
        let (object, choice) = match self.endpoint {
            Endpoint::Completion => (
                "text_completion",
                json!({
                    "index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish,
                }),
            ),
            Endpoint::Chat => (
                "chat.completion",
                json!({
                    "index": 0,
                    "message": { "role": "assistant", "content": text, "refusal": null },
                    "logprobs": logprobs,
                    "finish_reason": finish,
                }),
            ),
        };
        let Self { id, created, model, .. } = self;
        let usage = usage_json(usage);
        json!({
            "id": id, "object": object, "created": created, "model": model, "choices": [choice],
            "usage": usage,
        })
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

    fn choice(&self, text: Option<&str>, finish: Option<&'static str>) -> Value {
        match (self.endpoint, text) {
            (Endpoint::Completion, text) => json!([{
                "index": 0, "text": text.unwrap_or(""), "logprobs": null, "finish_reason": finish,
            }]),
            (Endpoint::Chat, Some(text)) => json!([{
                "index": 0, "delta": { "content": text }, "logprobs": null,
                "finish_reason": finish,
            }]),
            (Endpoint::Chat, None) => json!([{
                "index": 0, "delta": {}, "logprobs": null, "finish_reason": finish,
            }]),
        }
    }
}

/// Writes the chunks of one streamed answer, each as a server-sent event.
#[derive(Debug)]
pub(super) struct ChunkWriter {
    header: AnswerHeader,
    include_usage: bool,
    /// Present where the request asked for logprobs.
    logprobs: Option<LogprobsWriter>,
    /// A chunk is `before`, its text as a JSON string, `after`.
    before: String,
    after: String,
}

/// Stands for the text in the chunk that is rendered once and cut in two.
const PLACEHOLDER: &str = "\u{1}";
const PLACEHOLDER_JSON: &str = "\"\\u0001\"";

impl ChunkWriter {
    pub(super) fn new(
        header: AnswerHeader,
        include_usage: bool,
        logprobs: Option<LogprobsWriter>,
    ) -> Self {
        let usage = include_usage.then_some(&Value::Null);
        let chunk = header.chunk_json(&header.choice(Some(PLACEHOLDER), None), usage);
        let (before, after) = chunk.split_once(PLACEHOLDER_JSON).unwrap_or((&chunk, ""));
        let (before, after) = (format!("data: {before}"), format!("{after}\n\n"));
        Self { header, include_usage, logprobs, before, after }
    }

    /// The first chunk, which in a chat names the role.
    pub(super) fn opening(&self, out: &mut BytesMut) {
        if self.header.endpoint == Endpoint::Chat {
            let choices = json!([{
                "index": 0, "delta": { "role": "assistant", "content": "" }, "logprobs": null,
                "finish_reason": null,
            }]);
            self.chunk(&choices, None, out);
        }
    }

    /// A chunk of text, which may be empty where there are logprobs.
    pub(super) fn text(&mut self, text: &str, logprobs: &[Logprob], out: &mut BytesMut) {
        if let Some(writer) = &mut self.logprobs {
            let mut choices = self.header.choice(Some(text), None);
            choices[0]["logprobs"] = writer.json(logprobs);
            return self.chunk(&choices, None, out);
        }
        out.reserve(self.before.len() + text.len() + self.after.len() + 16);
        out.put_slice(self.before.as_bytes());
        // Writing into memory cannot fail, and neither can a string as JSON.
        let _ = serde_json::to_writer(out.writer(), text);
        out.put_slice(self.after.as_bytes());
    }

    /// The last chunks of an answer that ended in order.
    pub(super) fn done(&self, finish: Finish, usage: Usage, out: &mut BytesMut) {
        self.chunk(&self.header.choice(None, Some(finish_reason(finish))), None, out);
        if self.include_usage {
            self.chunk(&json!([]), Some(&usage_json(usage)), out);
        }
        out.put_slice(b"data: [DONE]\n\n");
    }

    fn chunk(&self, choices: &Value, usage: Option<&Value>, out: &mut BytesMut) {
        let usage = usage.or(self.include_usage.then_some(&Value::Null));
        put_event(&self.header.chunk_json(choices, usage), out);
    }
}

/// The last event of an answer that failed. No `[DONE]` follows.
pub(super) fn put_failure(error: &ApiError, out: &mut BytesMut) {
    put_event(&error.json().to_string(), out);
}

fn put_event(data: &str, out: &mut BytesMut) {
    out.put_slice(b"data: ");
    out.put_slice(data.as_bytes());
    out.put_slice(b"\n\n");
}

fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Length => "length",
        Finish::Stop | Finish::StopString | Finish::Cancelled | Finish::Failed(_) => "stop",
    }
}

fn usage_json(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.generated,
        "total_tokens": usage.prompt.saturating_add(usage.generated),
        "prompt_tokens_details": { "cached_tokens": usage.cached },
    })
}

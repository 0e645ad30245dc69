//! The JSON of an answer: in full, and what its chunks are made of.

use super::endpoint::Endpoint;
use crate::front::ModelInfo;
use crate::sched::{CacheMiss, Finish, RequestId, Usage};
use crate::text::{StopReason, TextKind, TextPieces};
use binfer_proto::Token;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// The names under which clients look for reasoning: that of most servers, and vLLM's newer one.
const REASONING: [&str; 2] = ["reasoning_content", "reasoning"];

/// An answer in full.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) index: usize,
    pub(super) text: TextPieces,
    pub(super) logprobs: Value,
    pub(super) finish: Finish,
    pub(super) stop_reason: Option<StopReason>,
    /// Present where the request asked for them.
    pub(super) token_ids: Option<TokenIds>,
}

/// The tokens of prompt and answer.
#[derive(Debug, Default)]
pub(super) struct TokenIds {
    pub(super) prompt: Vec<Token>,
    pub(super) answer: Vec<Token>,
}

/// What all chunks of one answer share.
#[derive(Clone, Debug)]
pub(super) struct AnswerHeader {
    pub(super) endpoint: Endpoint,
    /// Which of the answers it is.
    pub(super) index: usize,
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
            index: 0,
            // Request ids begin anew with the server, so its start is a part of the id.
            id: format!("{prefix}-{:x}-{:x}", model.created, id.0),
            created: now,
            model: model.name.clone(),
        }
    }

    /// The full response.
    pub(super) fn full_response(&self, choices: &[Choice], usage: &Value) -> Value {
        let object = match self.endpoint {
            Endpoint::Completion => "text_completion",
            Endpoint::Chat => "chat.completion",
        };
        let Self { id, created, model, .. } = self;
        let mut json = json!({
            "id": id, "object": object, "created": created, "model": model,
            "choices": choices.iter().map(|choice| self.choice(choice)).collect::<Value>(),
            "usage": usage,
        });
        let ids = choices.first().and_then(|choice| choice.token_ids.as_ref());
        if let (Endpoint::Chat, Some(ids)) = (self.endpoint, ids) {
            json["prompt_token_ids"] = json!(ids.prompt);
        }
        json
    }

    /// A choice in full. A chat's message has its reasoning beside its content, which is null
    /// where the answer ended before it began.
    fn choice(&self, choice: &Choice) -> Value {
        let content = choice.text.text_of(TextKind::Content);
        let mut json = json!({
            "index": choice.index, "logprobs": choice.logprobs,
            "finish_reason": finish_reason(choice.finish),
            "stop_reason": stop_reason(choice.stop_reason.as_ref()),
        });
        match self.endpoint {
            Endpoint::Completion => json["text"] = json!(content),
            Endpoint::Chat => {
                let mut message =
                    json!({ "role": "assistant", "content": content, "refusal": null });
                let reasoning = choice.text.text_of(TextKind::Reasoning);
                if !reasoning.is_empty() {
                    REASONING.iter().for_each(|name| message[*name] = json!(reasoning));
                    if content.is_empty() {
                        message["content"] = Value::Null;
                    }
                }
                json["message"] = message;
            }
        }
        if let Some(ids) = &choice.token_ids {
            json["token_ids"] = json!(ids.answer);
            if self.endpoint == Endpoint::Completion {
                json["prompt_token_ids"] = json!(ids.prompt);
            }
        }
        json
    }

    /// What an answer consumed. Answers in chats say how many of their tokens were reasoning.
    pub(super) fn usage(&self, usage: Usage, reasoning_tokens: u32) -> Value {
        let mut json = json!({
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.generated,
            "total_tokens": usage.prompt.saturating_add(usage.generated),
            "prompt_tokens_details": {
                "cached_tokens": usage.cached, "cache_miss": cache_miss(usage.cache_miss),
            },
        });
        if self.endpoint == Endpoint::Chat {
            json["completion_tokens_details"] = json!({ "reasoning_tokens": reasoning_tokens });
        }
        json
    }

    /// What an answer consumed by now, for its chunks.
    pub(super) fn usage_by_now(Usage { prompt, generated, .. }: Usage) -> Value {
        json!({
            "prompt_tokens": prompt, "completion_tokens": generated,
            "total_tokens": prompt.saturating_add(generated),
        })
    }

    /// A chunk with these choices.
    pub(super) fn chunk_json(&self, choices: &Value, usage: Option<&Value>) -> Value {
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
        chunk
    }

    /// The choices of a chunk with this text.
    pub(super) fn text_choice(&self, kind: TextKind, text: &str) -> Value {
        match (self.endpoint, kind) {
            (Endpoint::Completion, _) => json!([{
                "index": self.index, "text": text, "logprobs": null, "finish_reason": null,
            }]),
            (Endpoint::Chat, TextKind::Content) => self.chat_choice(json!({ "content": text })),
            (Endpoint::Chat, TextKind::Reasoning) => {
                self.chat_choice(REASONING.map(|name| (name, text)).into_iter().collect())
            }
        }
    }

    /// The choices of a chunk of a chat.
    pub(super) fn chat_choice(&self, delta: Value) -> Value {
        json!([{
            "index": self.index, "delta": delta, "logprobs": null, "finish_reason": null,
        }])
    }

    /// The choices of a chunk that says why the answer ended.
    pub(super) fn last_choice(&self, finish: Finish, reason: Option<&StopReason>) -> Value {
        let mut choice = match self.endpoint {
            Endpoint::Completion => self.text_choice(TextKind::Content, ""),
            Endpoint::Chat => self.chat_choice(json!({})),
        };
        choice[0]["finish_reason"] = finish_reason(finish).into();
        choice[0]["stop_reason"] = stop_reason(reason);
        choice
    }
}

/// Why no more of the prompt was cached; null where it never ran.
fn cache_miss(miss: Option<CacheMiss>) -> Value {
    match miss {
        None => Value::Null,
        Some(CacheMiss::TooShort) => json!({ "reason": "too_short" }),
        Some(CacheMiss::Evicted) => json!({ "reason": "evicted" }),
        Some(CacheMiss::Different { token }) => json!({ "reason": "different", "token": token }),
        Some(CacheMiss::Salt) => json!({ "reason": "salt" }),
        Some(CacheMiss::Disabled) => json!({ "reason": "disabled" }),
    }
}

fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Length => "length",
        Finish::Stop | Finish::StopString(_) | Finish::Cancelled | Finish::Failed(_) => "stop",
    }
}

/// vLLM's field: what ended the answer, where the request named it.
fn stop_reason(reason: Option<&StopReason>) -> Value {
    match reason {
        None => Value::Null,
        Some(StopReason::Text(text)) => json!(text),
        Some(StopReason::Token(token)) => json!(token),
    }
}

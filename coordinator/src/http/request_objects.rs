//! The objects that a request consists of, and the fields of each: those that are read, those that
//! are refused, and those that change no answer.

use super::endpoint::Endpoint;
use super::refused_field_table::{self, TOOLS, WITHOUT_EFFECT, row};
use super::refused_fields::Advice::{Unsupported, UseField};
use super::refused_fields::RefusedField;

/// An object of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestObject {
    /// The request itself.
    Body(Endpoint),
    /// `stream_options`.
    StreamOptions,
    /// A message of a chat.
    Message,
    /// A part of a message's content.
    ContentPart,
}

/// Fields of both endpoints.
const BOTH: [&str; 28] = [
    "model",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "ignore_eos",
    "n",
    "best_of",
    "min_tokens",
    "stop_token_ids",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "add_special_tokens",
    "truncate_prompt_tokens",
    "return_token_ids",
    "cache_salt",
    "user",
];

const MESSAGE_REFUSED: &[RefusedField] = &[
    row("tool_calls", "[[]]", TOOLS),
    row("function_call", "[]", TOOLS),
    row("audio", "[]", Unsupported("audio")),
    row("images", "[[]]", Unsupported("anything but text")),
    row("text", "[]", UseField("content")),
    row("parts", "[]", UseField("content")),
    row("prefix", "[false]", Unsupported("continuing a message")),
    row("partial", "[false]", Unsupported("continuing a message")),
    row("reasoning_details", "[[]]", UseField("reasoning_content")),
    row("thinking", r#"[""]"#, UseField("reasoning_content")),
];

impl RequestObject {
    /// The fields that are read.
    pub(super) fn known(self) -> impl Iterator<Item = &'static str> {
        let (both, own): (&[&str], &[&str]) = match self {
            Self::Body(Endpoint::Completion) => (&BOTH, &["prompt"]),
            Self::Body(Endpoint::Chat) => (&BOTH, &["messages", "top_logprobs"]),
            Self::StreamOptions => (&[], &["include_usage", "continuous_usage_stats"]),
            Self::Message => {
                (&[], &["role", "content", "name", "refusal", "reasoning_content", "reasoning"])
            }
            Self::ContentPart => (&[], &["type", "text", "refusal"]),
        };
        both.iter().chain(own).copied()
    }

    /// The object, or objects, that a field which is read holds.
    pub(super) fn inside(self, field: &str) -> Option<Self> {
        match (self, field) {
            (Self::Body(_), "stream_options") => Some(Self::StreamOptions),
            (Self::Body(Endpoint::Chat), "messages") => Some(Self::Message),
            (Self::Message, "content") => Some(Self::ContentPart),
            _ => None,
        }
    }

    /// The fields that are refused unless their value asks for nothing.
    pub(super) fn refused(self) -> impl Iterator<Item = &'static RefusedField> {
        let tables: [&'static [RefusedField]; 3] = match self {
            Self::Body(endpoint) => refused_field_table::of(endpoint),
            Self::Message => [MESSAGE_REFUSED, &[], &[]],
            Self::StreamOptions | Self::ContentPart => [&[], &[], &[]],
        };
        tables.into_iter().flatten()
    }

    /// The fields that change no answer here, whatever their value.
    pub(super) fn without_effect(self) -> &'static [&'static str] {
        match self {
            Self::Body(_) => WITHOUT_EFFECT,
            // Padding against observers of lengths.
            Self::StreamOptions => &["include_obfuscation"],
            // The id of a call belongs to the role `tool`, which is refused.
            Self::Message => &["tool_call_id", "annotations", "cache_control", "weight"],
            Self::ContentPart => &["annotations", "cache_control"],
        }
    }
}

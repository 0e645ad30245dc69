//! A request as a front hands it in.

use super::stream_buffer::ReadMode;
use crate::text::Message;
use binfer_proto::{Bias, Sampling, Token};

/// What is to be continued.
#[derive(Clone, Debug)]
pub enum Prompt {
    /// A text; special tokens in it are recognised.
    Text(String),
    /// Tokens.
    Tokens(Vec<Token>),
    /// A conversation, to be rendered by the model's chat template.
    Chat(Vec<Message>),
}

/// How long an answer may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxTokens {
    /// As long as the context has room.
    Rest,
    /// This long, or shorter where the context has less room: a default.
    AtMost(u32),
    /// This long; refused where the context has less room.
    Asked(u32),
}

/// A request as a front hands it in.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// What is to be continued.
    pub prompt: Prompt,
    /// Tokens of the answer at most.
    pub max_tokens: MaxTokens,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Added to logits; in any order.
    pub biases: Vec<Bias>,
    /// Logprobs of the answer's tokens, and of so many most likely ones beside each.
    pub top_logprobs: Option<u8>,
    /// Makes an answer repeatable; drawn if absent.
    pub seed: Option<u64>,
    /// Texts at which the answer ends.
    pub stop: Vec<String>,
    /// Go on after end tokens.
    pub ignore_eos: bool,
    /// How the answer will be read.
    pub read_mode: ReadMode,
}

impl Prompt {
    /// The field of the API that holds it.
    pub(super) fn param(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Tokens(_) => "prompt",
            Self::Chat(_) => "messages",
        }
    }
}

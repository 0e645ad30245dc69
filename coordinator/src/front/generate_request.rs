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
    /// This long, or shorter where the context has less room: for defaults.
    AtMost(u32),
    /// This long. The request is refused where the context has less room.
    Asked(u32),
}

/// A request as a front hands it in.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// What is to be continued.
    pub prompt: Prompt,
    /// Tokens of the answer at most.
    pub max_tokens: MaxTokens,
    /// How tokens are sampled.
    pub sampling: Sampling,
    /// What is added to logits, in any order of tokens.
    pub biases: Vec<Bias>,
    /// Logprobs of the answer's tokens, and of so many most likely ones beside each.
    pub top_logprobs: Option<u8>,
    /// Makes an answer repeatable. Absent, it is random.
    pub seed: Option<u64>,
    /// Texts at which the answer ends.
    pub stop: Vec<String>,
    /// End tokens do not end the answer.
    pub ignore_eos: bool,
    /// The answer's tokens come beside its text.
    pub token_ids: bool,
    /// How the answer will be read.
    pub read_mode: ReadMode,
}

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

/// How many tokens of a prompt are kept, its last ones, where it is longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptTokens {
    /// All: a prompt that is too long is refused.
    All,
    /// As many as leave room for the answer, at least one token of it.
    Fitting,
    /// So many.
    Last(u32),
}

/// A request as a front hands it in.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// What is to be continued.
    pub prompt: Prompt,
    /// What the tokenizer itself puts around a text (the token that begins a sequence) is put
    /// there. Absent, it is around texts and not around conversations, whose template writes it.
    pub add_special_tokens: Option<bool>,
    /// How much of a long prompt is kept.
    pub prompt_tokens: PromptTokens,
    /// Tokens of the answer at most.
    pub max_tokens: MaxTokens,
    /// Tokens of the answer before any end token, stop token or stop string.
    pub min_tokens: u32,
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
    /// Tokens at which the answer ends, beside the model's.
    pub stop_tokens: Vec<Token>,
    /// The stop string or token that ended the answer is part of its text.
    pub include_stop: bool,
    /// End tokens do not end the answer.
    pub ignore_eos: bool,
    /// Control tokens are part of the answer's text, by their names.
    pub show_special_tokens: bool,
    /// The answer's tokens come beside its text.
    pub token_ids: bool,
    /// Cached blocks are shared only with requests of the same salt.
    pub cache_salt: Option<String>,
    /// How the answer will be read.
    pub read_mode: ReadMode,
}

impl GenerateRequest {
    /// A request for `prompt` that asks for nothing but how tokens are sampled.
    pub fn new(prompt: Prompt, sampling: Sampling) -> Self {
        Self {
            prompt,
            add_special_tokens: None,
            prompt_tokens: PromptTokens::All,
            max_tokens: MaxTokens::Rest,
            min_tokens: 0,
            sampling,
            biases: Vec::new(),
            top_logprobs: None,
            seed: None,
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            include_stop: false,
            ignore_eos: false,
            show_special_tokens: false,
            token_ids: false,
            cache_salt: None,
            read_mode: ReadMode::Streamed,
        }
    }
}

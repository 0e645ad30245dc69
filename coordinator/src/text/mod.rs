//! Text to tokens and back: tokenizer, chat template, detokeniser, reasoning, stop strings.
//!
//! The fronts use [`TextProcess`](process::TextProcess) before a request is submitted: it has
//! another process use a [`TextModel`]. The serve loop uses [`TextStage`] after a step. A tokenizer
//! that would have to be guessed is refused.

mod asked_text;
mod control;
#[cfg(test)]
mod corpus;
mod data;
mod detokenize;
mod end_tokens;
mod error;
mod facts;
mod guarded;
mod hf;
mod model;
mod open;
mod pieces;
mod pre_tokenizer;
mod pre_tokenizer_kinds;
pub mod process;
mod reasoning;
#[cfg(test)]
mod reference;
mod sentence_piece;
mod stage;
mod stop;
mod template;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod token_bytes_max;
mod tokenizer;
mod tokenizer_files;
mod vocab;

pub use asked_text::{AskedText, StopReason, TextEnd};
pub use data::{TextData, TokenKind, TokenizerFamily};
pub use detokenize::Detokenizer;
pub use error::TextError;
pub(crate) use facts::SAMPLING_DEFAULT;
pub use facts::TextFacts;
pub use guarded::TokenizerError;
pub use model::TextModel;
pub use pieces::{TextKind, TextPieces};
pub use reasoning::{
    ReasoningError, ReasoningFormat, ReasoningMarks, ReasoningParser, ReasoningParserName,
};
pub use stage::{Pushed, TextStage};
pub use stop::{StopMatcher, StopsBind};
pub use template::{ChatTemplate, Message, SpecialTokens};
pub use tokenizer::{ControlTokens, build as build_tokenizer};
pub use tokenizer_files::TokenizerFiles;
pub use vocab::{Spelling, Vocab};

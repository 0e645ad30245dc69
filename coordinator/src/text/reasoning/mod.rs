//! Tells a model's reasoning from its answer while tokens come, one parser a format.
//!
//! A parser sees tokens before they are text: where the markup is made of tokens of its own, the
//! same words spelled with ordinary tokens are text. It takes whatever a model says: markup that is
//! out of place is dropped, text in an unknown place is reasoning or content, and nothing is an
//! error. The state of a parser follows from the tokens alone, so how they are cut into deliveries
//! changes nothing.

mod format;
mod harmony;
mod harmony_header;
mod paragraphs;
#[cfg(test)]
mod tests;
mod think;

use super::pieces::{TextKind, TextPieces};
use super::vocab::Vocab;
use binfer_proto::Token;
use harmony::HarmonyParser;
use think::ThinkParser;

pub use format::{ReasoningError, ReasoningFormat, ReasoningMarks, ReasoningParserName};

/// The parser of one answer.
#[derive(Debug)]
pub enum ReasoningParser {
    /// Everything is content.
    Off,
    /// Channels of gpt-oss.
    Harmony(HarmonyParser),
    /// Text between `<think>` and `</think>`.
    Think(ThinkParser),
}

impl ReasoningParser {
    /// The parser of the answer to `prompt`, which may have opened the reasoning already.
    pub(super) fn new(format: ReasoningFormat, vocab: &Vocab, prompt: &[Token]) -> Self {
        match format {
            ReasoningFormat::Off => Self::Off,
            ReasoningFormat::Harmony(tokens) => {
                Self::Harmony(HarmonyParser::after(prompt, tokens, vocab))
            }
            ReasoningFormat::Think(format) => {
                Self::Think(ThinkParser::after(prompt, format, vocab))
            }
        }
    }

    /// Whether a token is markup, which is no text.
    pub(super) fn is_mark(&self, token: Token) -> bool {
        match self {
            Self::Off => false,
            Self::Harmony(parser) => parser.is_mark(token),
            Self::Think(parser) => parser.is_mark(token),
        }
    }

    /// Takes a token that is markup.
    pub(super) fn mark(&mut self, token: Token, out: &mut TextPieces) {
        match self {
            Self::Off => {}
            Self::Harmony(parser) => parser.mark(token, out),
            Self::Think(parser) => parser.mark(token, out),
        }
    }

    /// Takes the text of a token that is not markup.
    pub(super) fn text(&mut self, text: &str, out: &mut TextPieces) {
        match self {
            Self::Off => out.push(TextKind::Content, text),
            Self::Harmony(parser) => parser.text(text, out),
            Self::Think(parser) => parser.text(text, out),
        }
    }

    /// Gives out what was held back, after the last token of an answer.
    pub(super) fn finish(&mut self, out: &mut TextPieces) {
        match self {
            Self::Off => {}
            Self::Harmony(parser) => parser.finish(out),
            Self::Think(parser) => parser.finish(out),
        }
    }

    /// Whether the text of the next token would be reasoning.
    pub(super) fn is_reasoning(&self) -> bool {
        match self {
            Self::Off => false,
            Self::Harmony(parser) => parser.is_reasoning(),
            Self::Think(parser) => parser.is_reasoning(),
        }
    }
}

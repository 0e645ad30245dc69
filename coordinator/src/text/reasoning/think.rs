//! Reasoning between `<think>` and `</think>`, as Qwen 3 and DeepSeek R1 write it.
//!
//! Where the vocabulary has the two tags as tokens, only those count, wherever they come. Elsewhere
//! the text is searched: `<think>` counts at the beginning of an answer, and `</think>` within the
//! reasoning. White space around the reasoning, which belongs to the markup, is dropped; both
//! parts begin and end with what the model said in them.

use super::paragraphs::Paragraphs;
use crate::text::detokenize::Detokenizer;
use crate::text::pieces::{TextKind, TextPieces};
use crate::text::vocab::Vocab;
use binfer_proto::Token;
use serde::{Deserialize, Serialize};

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";
/// Tokens at the end of a prompt that are searched for a tag.
const PROMPT_TOKENS: usize = 16;
/// More white space than this is given out, although the reasoning may end behind it.
const HELD_BYTES_MAX: usize = 1024;

/// The tags as tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ThinkTokens {
    open: Token,
    close: Token,
}

impl ThinkTokens {
    pub(super) fn find(named: impl Fn(&str) -> Option<Token>) -> Option<Self> {
        Some(Self { open: named(OPEN)?, close: named(CLOSE)? })
    }

    pub(super) fn is_mark(&self, token: Token) -> bool {
        token == self.open || token == self.close
    }
}

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThinkFormat {
    /// The tags, where they are tokens.
    pub(super) tokens: Option<ThinkTokens>,
    /// An answer begins with reasoning where neither it nor the prompt has `<think>`.
    pub(super) begins_inside: bool,
}

/// The parser of one answer.
#[derive(Debug)]
pub struct ThinkParser {
    tokens: Option<ThinkTokens>,
    place: ThinkPlace,
    /// Text that may belong to a tag, and white space that may stand beside one.
    held: String,
    /// White space is dropped until there is other text.
    skips_space: bool,
    said: Paragraphs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ThinkPlace {
    /// Nothing but white space came, or the beginning of `<think>`.
    Before,
    Inside,
    Behind,
}

impl ThinkParser {
    /// The parser of what follows `prompt`.
    pub(super) fn after(prompt: &[Token], format: ThinkFormat, vocab: &Vocab) -> Self {
        let tail = &prompt[prompt.len().saturating_sub(PROMPT_TOKENS)..];
        let place = match last_tag(tail, format.tokens, vocab) {
            Some(OPEN) => ThinkPlace::Inside,
            Some(_) => ThinkPlace::Behind,
            None if format.begins_inside => ThinkPlace::Inside,
            None => ThinkPlace::Before,
        };
        let skips_space = place == ThinkPlace::Inside;
        let (held, said) = (String::new(), Paragraphs::default());
        Self { tokens: format.tokens, place, held, skips_space, said }
    }

    pub(super) fn is_mark(&self, token: Token) -> bool {
        self.tokens.is_some_and(|tokens| tokens.is_mark(token))
    }

    pub(super) fn mark(&mut self, token: Token, out: &mut TextPieces) {
        let opens = self.tokens.is_some_and(|tokens| token == tokens.open);
        match (self.place, opens) {
            (ThinkPlace::Before | ThinkPlace::Behind, true) => self.open(),
            (ThinkPlace::Inside, false) => self.close(out),
            (ThinkPlace::Before, false) => self.place = ThinkPlace::Behind,
            // A tag that is doubled says nothing.
            (ThinkPlace::Inside, true) | (ThinkPlace::Behind, false) => {}
        }
    }

    pub(super) fn text(&mut self, text: &str, out: &mut TextPieces) {
        match self.place {
            ThinkPlace::Before => self.before(text, out),
            ThinkPlace::Inside => self.inside(text, out),
            ThinkPlace::Behind => self.behind(text, out),
        }
    }

    /// Gives out a beginning that did not become a tag. White space behind reasoning is dropped,
    /// and so is a tag that is cut.
    pub(super) fn finish(&mut self, out: &mut TextPieces) {
        let held = std::mem::take(&mut self.held);
        let is_cut =
            self.tokens.is_none() && [OPEN, CLOSE].iter().any(|tag| is_cut_tag(&held, tag));
        match self.place {
            ThinkPlace::Before if !is_cut => self.said.say(TextKind::Content, &held, out),
            ThinkPlace::Inside if !is_cut => {
                self.said.say(TextKind::Reasoning, held.trim_end(), out);
            }
            _ => {}
        }
    }

    pub(super) fn is_reasoning(&self) -> bool {
        self.place == ThinkPlace::Inside
    }

    fn before(&mut self, text: &str, out: &mut TextPieces) {
        self.held.push_str(text);
        let said = self.held.trim_start();
        if let (Some(rest), None) = (said.strip_prefix(OPEN), self.tokens) {
            let rest = rest.to_owned();
            self.open();
            return self.inside(&rest, out);
        }
        let may_open = self.tokens.is_none() && OPEN.starts_with(said);
        if (said.is_empty() || may_open) && self.held.len() <= HELD_BYTES_MAX {
            return;
        }
        self.place = ThinkPlace::Behind;
        self.said.say(TextKind::Content, &std::mem::take(&mut self.held), out);
    }

    fn inside(&mut self, text: &str, out: &mut TextPieces) {
        self.held.push_str(text);
        if self.tokens.is_none() {
            // A model may write `<think>` although the reasoning is open already.
            if self.skips_space
                && let Some(rest) = self.held.trim_start().strip_prefix(OPEN)
            {
                self.held = rest.to_owned();
            }
            if let Some(at) = self.held.find(CLOSE) {
                let rest = self.held.split_off(at + CLOSE.len());
                self.held.truncate(at);
                self.close(out);
                return self.behind(&rest, out);
            }
        }
        if self.skips_space {
            let said = self.held.trim_start();
            if said.is_empty() || (self.tokens.is_none() && OPEN.starts_with(said)) {
                return self.held.replace_range(..self.held.len() - said.len(), "");
            }
            self.held = said.to_owned();
            self.skips_space = false;
        }
        let tag_bytes = if self.tokens.is_none() { cut_tag_bytes(&self.held) } else { 0 };
        let certain = &self.held[..self.held.len() - tag_bytes];
        let certain = match certain.trim_end() {
            trimmed if certain.len() - trimmed.len() <= HELD_BYTES_MAX => trimmed,
            _ => certain,
        };
        self.said.say(TextKind::Reasoning, certain, out);
        let bytes = certain.len();
        self.held.drain(..bytes);
    }

    fn behind(&mut self, text: &str, out: &mut TextPieces) {
        let text = if self.skips_space { text.trim_start() } else { text };
        self.skips_space &= text.is_empty();
        self.said.say(TextKind::Content, text, out);
    }

    fn open(&mut self) {
        self.held.clear();
        self.said.begin();
        (self.place, self.skips_space) = (ThinkPlace::Inside, true);
    }

    fn close(&mut self, out: &mut TextPieces) {
        self.said.say(TextKind::Reasoning, self.held.trim_end(), out);
        self.held.clear();
        self.said.begin();
        (self.place, self.skips_space) = (ThinkPlace::Behind, true);
    }
}

/// The tag in which a prompt ends, white space left aside. A prompt may spell it with ordinary
/// tokens where answers have a token for it.
fn last_tag(tail: &[Token], tokens: Option<ThinkTokens>, vocab: &Vocab) -> Option<&'static str> {
    // A tag before a control token belongs to somebody's message.
    let is_mark = |token: &Token| tokens.is_some_and(|tokens| tokens.is_mark(*token));
    let is_control = |token: &Token| vocab.bytes(*token).is_empty() && !is_mark(token);
    let said = tail.rsplit(is_control).next().unwrap_or_default();
    let (mut text, mut detokenizer) = (String::new(), Detokenizer::default());
    for token in said {
        match tokens {
            Some(ThinkTokens { open, .. }) if *token == open => text.push_str(OPEN),
            Some(ThinkTokens { close, .. }) if *token == close => text.push_str(CLOSE),
            _ => detokenizer.push(vocab, *token, &mut text),
        }
    }
    [OPEN, CLOSE].into_iter().find(|tag| text.trim_end().ends_with(tag))
}

/// How many bytes at the end of `text` may begin `</think>`.
fn cut_tag_bytes(text: &str) -> usize {
    let lengths = (1..CLOSE.len()).rev();
    lengths.into_iter().find(|bytes| text.ends_with(&CLOSE[..*bytes])).unwrap_or(0)
}

/// Whether `text` is a tag whose rest is missing.
fn is_cut_tag(text: &str, tag: &str) -> bool {
    let text = text.trim();
    !text.is_empty() && tag.starts_with(text)
}

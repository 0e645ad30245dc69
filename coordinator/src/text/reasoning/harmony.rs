//! Harmony, the format of gpt-oss: messages with a header, each on a channel.
//!
//! `<|channel|>analysis<|message|>Hm<|end|>`, `<|start|>assistant<|channel|>final<|message|>Yes`
//!
//! What the assistant says to the user is content: the channel `final`, `commentary` without a
//! recipient (a preamble), and text without any channel. Everything else is reasoning: the channel
//! `analysis`, unknown channels, messages in another role, and calls of tools, since this version
//! gives a model none to call. Markup out of place does what it can: `<|start|>` and `<|channel|>`
//! begin a header anywhere, and others are dropped where they say nothing.

use super::harmony_header::HarmonyHeader;
use super::paragraphs::Paragraphs;
use crate::text::detokenize::Detokenizer;
use crate::text::pieces::{TextKind, TextPieces};
use crate::text::vocab::Vocab;
use binfer_proto::Token;
use serde::{Deserialize, Serialize};

/// A longer header is no header: a model has forgotten `<|message|>`.
const HEADER_BYTES_MAX: usize = 256;

/// The tokens of the markup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HarmonyTokens {
    start: Token,
    channel: Token,
    message: Token,
    end: Token,
    constrain: Option<Token>,
    call: Option<Token>,
    /// The end of the answer.
    turn_end: Option<Token>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HarmonyMark {
    Start,
    Channel,
    Constrain,
    Message,
    /// The end of a message, whatever follows it.
    End,
}

impl HarmonyTokens {
    pub(super) fn find(named: impl Fn(&str) -> Option<Token>) -> Option<Self> {
        Some(Self {
            start: named("<|start|>")?,
            channel: named("<|channel|>")?,
            message: named("<|message|>")?,
            end: named("<|end|>")?,
            constrain: named("<|constrain|>"),
            call: named("<|call|>"),
            turn_end: named("<|return|>"),
        })
    }

    pub(super) fn is_mark(&self, token: Token) -> bool {
        self.mark(token).is_some()
    }

    fn mark(&self, token: Token) -> Option<HarmonyMark> {
        let is = |other: Option<Token>| other == Some(token);
        match token {
            _ if token == self.start => Some(HarmonyMark::Start),
            _ if token == self.channel => Some(HarmonyMark::Channel),
            _ if token == self.message => Some(HarmonyMark::Message),
            _ if is(self.constrain) => Some(HarmonyMark::Constrain),
            _ if token == self.end || is(self.call) || is(self.turn_end) => Some(HarmonyMark::End),
            _ => None,
        }
    }
}

/// The parser of one answer in harmony.
#[derive(Debug)]
pub struct HarmonyParser {
    tokens: HarmonyTokens,
    place: HarmonyPlace,
    said: Paragraphs,
}

#[derive(Debug)]
enum HarmonyPlace {
    Header(HarmonyHeader),
    Body(TextKind),
}

impl HarmonyParser {
    fn new(tokens: HarmonyTokens) -> Self {
        let place = HarmonyPlace::Header(HarmonyHeader::default());
        Self { tokens, place, said: Paragraphs::default() }
    }

    /// The parser of what follows `prompt`, which ends within a message or its header.
    pub(super) fn after(prompt: &[Token], tokens: HarmonyTokens, vocab: &Vocab) -> Self {
        let start = prompt.iter().rposition(|token| *token == tokens.start);
        let mut parser = Self::new(tokens);
        let (mut text, mut dropped) = (String::new(), TextPieces::default());
        let mut detokenizer = Detokenizer::default();
        for token in start.map_or(&[][..], |start| &prompt[start..]) {
            if parser.is_mark(*token) {
                parser.mark(*token, &mut dropped);
            } else {
                text.clear();
                detokenizer.push(vocab, *token, &mut text);
                parser.text(&text, &mut dropped);
            }
        }
        Self { said: Paragraphs::default(), ..parser }
    }

    pub(super) fn is_mark(&self, token: Token) -> bool {
        self.tokens.is_mark(token)
    }

    pub(super) fn mark(&mut self, token: Token, out: &mut TextPieces) {
        let Some(mark) = self.tokens.mark(token) else { return };
        match (mark, &mut self.place) {
            (HarmonyMark::Start | HarmonyMark::End, _) => {
                let is_start = mark == HarmonyMark::Start;
                self.end_header(is_start, out);
                self.place = HarmonyPlace::Header(HarmonyHeader::new(!is_start));
            }
            (HarmonyMark::Channel, HarmonyPlace::Header(header)) if !header.has_stray_text() => {
                header.begin_channel();
            }
            (HarmonyMark::Channel, _) => {
                self.end_header(true, out);
                let mut header = HarmonyHeader::default();
                header.begin_channel();
                self.place = HarmonyPlace::Header(header);
            }
            (HarmonyMark::Constrain, HarmonyPlace::Header(header)) => header.begin_content_type(),
            (HarmonyMark::Message, HarmonyPlace::Header(header)) => {
                let kind = header.kind();
                self.begin_body(kind);
            }
            (HarmonyMark::Constrain | HarmonyMark::Message, HarmonyPlace::Body(_)) => {}
        }
    }

    pub(super) fn text(&mut self, text: &str, out: &mut TextPieces) {
        match &mut self.place {
            HarmonyPlace::Body(kind) => self.said.say(*kind, text, out),
            HarmonyPlace::Header(header) => {
                header.text(text);
                if header.bytes() > HEADER_BYTES_MAX {
                    self.end_header(false, out);
                }
            }
        }
    }

    pub(super) fn finish(&mut self, out: &mut TextPieces) {
        self.end_header(false, out);
    }

    pub(super) fn is_reasoning(&self) -> bool {
        matches!(self.place, HarmonyPlace::Body(TextKind::Reasoning))
    }

    fn begin_body(&mut self, kind: TextKind) {
        self.place = HarmonyPlace::Body(kind);
        self.said.begin();
    }

    /// A header ends without `<|message|>`, and the message begins all the same. What the header
    /// holds beside a header's words was meant as its text.
    fn end_header(&mut self, is_before_header: bool, out: &mut TextPieces) {
        if let HarmonyPlace::Header(header) = &self.place {
            let (kind, text) = (header.leftover_kind(is_before_header), header.leftover());
            self.begin_body(kind);
            self.said.say(kind, &text, out);
        }
    }
}

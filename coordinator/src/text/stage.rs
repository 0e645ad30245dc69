//! The text stage of the serve loop: tokens of running requests in, pieces of text out.
//!
//! It runs between the scheduler and the readers and knows neither. All its state follows from the
//! tokens so far, so it can be rebuilt from the journal. Stop strings are those of the answer: text
//! that is reasoning does not complete one.

use super::asked_text::{AskedText, StopReason, TextEnd};
use super::detokenize::Detokenizer;
use super::facts::TextFacts;
use super::pieces::{TextKind, TextPieces};
use super::reasoning::{ReasoningFormat, ReasoningParser};
use super::stop::{StopMatcher, StopsBind};
use super::vocab::Vocab;
use crate::sched::{Delivery, Finish, RequestId};
use binfer_proto::Token;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The detokenisers, parsers and stop matchers of the running requests.
#[derive(Debug)]
pub struct TextStage {
    facts: Arc<TextFacts>,
    reasoning: ReasoningFormat,
    open: BTreeMap<RequestId, AnswerText>,
    text: TextPieces,
}

/// The text of one delivery.
#[derive(Debug, PartialEq, Eq)]
pub struct Pushed<'a> {
    /// Text for the reader, which may be empty.
    pub text: &'a TextPieces,
    /// The index of the stop string that is complete. Then the request must be finished as
    /// [`Finish::StopString`], and later deliveries have no text.
    pub stop: Option<usize>,
    /// What the text says of the answer's end, if that is reached.
    pub end: TextEnd,
}

#[derive(Debug)]
struct AnswerText {
    detokenizer: Detokenizer,
    parser: ReasoningParser,
    stops: StopMatcher,
    asked: AskedText,
    /// The index of the stop string that ended the answer.
    stopped: Option<usize>,
    tokens: u32,
    reasoning_tokens: u32,
    /// The text of one token, kept for its memory.
    token_text: String,
    /// What the parser made of it.
    parsed: TextPieces,
}

impl TextStage {
    /// A stage without requests. Answers in chats have the format `reasoning`.
    pub fn new(facts: Arc<TextFacts>, reasoning: ReasoningFormat) -> Self {
        Self { facts, reasoning, open: BTreeMap::new(), text: TextPieces::default() }
    }

    /// The parser of the answer to a prompt that asks for one in a chat; others are not parsed.
    pub fn parser(&self, is_chat: bool, prompt: &[Token]) -> ReasoningParser {
        let format = if is_chat { self.reasoning } else { ReasoningFormat::Off };
        ReasoningParser::new(format, &self.facts.vocab, prompt)
    }

    /// A request was admitted, whose answer has the text that it asked for.
    pub fn open(&mut self, id: RequestId, asked: AskedText, parser: ReasoningParser) {
        let answer = AnswerText {
            detokenizer: Detokenizer::default(),
            parser,
            stops: StopMatcher::new(&asked.stop, asked.include_stop),
            asked,
            stopped: None,
            tokens: 0,
            reasoning_tokens: 0,
            token_text: String::new(),
            parsed: TextPieces::default(),
        };
        self.open.insert(id, answer);
    }

    /// Turns a delivery into text. The last delivery also releases what was held back.
    pub fn push(&mut self, delivery: &Delivery) -> Pushed<'_> {
        self.text.clear();
        let Some(answer) = self.open.get_mut(&delivery.id) else {
            return Pushed { text: &self.text, stop: None, end: TextEnd::default() };
        };
        let was_stopped = answer.stopped.is_some();
        let shown_end = delivery.end_token.filter(|_| answer.asked.include_stop);
        for token in delivery.tokens.iter().chain(&shown_end) {
            answer.token(*token, &self.facts.vocab, &mut self.text);
        }
        if matches!(delivery.finish, Some(Finish::Stop | Finish::Length)) {
            answer.finish(&mut self.text);
        }
        let stop = answer.stopped.filter(|_| !was_stopped);
        Pushed { text: &self.text, stop, end: answer.end(delivery.end_token) }
    }

    /// A request is over, however it ended.
    pub fn close(&mut self, id: RequestId) {
        self.open.remove(&id);
    }
}

impl AnswerText {
    fn token(&mut self, token: Token, vocab: &Vocab, out: &mut TextPieces) {
        if self.stopped.is_some() {
            return;
        }
        self.tokens = self.tokens.saturating_add(1);
        self.token_text.clear();
        if self.parser.is_mark(token) {
            // A character does not go on behind markup.
            self.detokenizer.finish(&mut self.token_text);
            self.parser.text(&self.token_text, &mut self.parsed);
            self.parser.mark(token, &mut self.parsed);
        } else {
            self.reasoning_tokens += u32::from(self.parser.is_reasoning());
            match vocab.name(token) {
                name if self.asked.show_special && !name.is_empty() => {
                    self.detokenizer.finish(&mut self.token_text);
                    self.token_text.push_str(name);
                }
                _ => self.detokenizer.push(vocab, token, &mut self.token_text),
            }
            self.parser.text(&self.token_text, &mut self.parsed);
        }
        self.search_stops(out);
    }

    /// What the text says of an end that is reached now.
    fn end(&self, end_token: Option<Token>) -> TextEnd {
        let (reasoning_tokens, stop_reason) = (self.reasoning_tokens, self.stop_reason(end_token));
        TextEnd { reasoning_tokens, end_token, stop_reason }
    }

    /// What ended the answer, in the request's words.
    fn stop_reason(&self, end_token: Option<Token>) -> Option<StopReason> {
        if let Some(index) = self.stopped {
            return self.asked.stop.get(index).cloned().map(StopReason::Text);
        }
        let end_token = end_token?;
        let mut names = self.asked.end_names.iter();
        names.find(|(token, _)| *token == end_token).map(|(_, name)| name.clone())
    }

    fn finish(&mut self, out: &mut TextPieces) {
        if self.stopped.is_some() {
            return;
        }
        self.token_text.clear();
        self.detokenizer.finish(&mut self.token_text);
        self.parser.text(&self.token_text, &mut self.parsed);
        self.parser.finish(&mut self.parsed);
        self.search_stops(out);
        if self.stopped.is_none() {
            self.token_text.clear();
            self.stops.finish(&mut self.token_text);
            out.push(TextKind::Content, &self.token_text);
        }
    }

    /// Moves what was parsed to `out`, up to a stop string.
    fn search_stops(&mut self, out: &mut TextPieces) {
        let long = self.tokens > self.asked.min_tokens || self.asked.min_tokens == 0;
        let bind = if long { StopsBind::Yes } else { StopsBind::NotYet };
        for (kind, text) in self.parsed.iter() {
            self.token_text.clear();
            self.token_text.push_str(text);
            if kind == TextKind::Content {
                self.stopped = self.stops.push(&mut self.token_text, bind);
            }
            out.push(kind, &self.token_text);
            if self.stopped.is_some() {
                break;
            }
        }
        self.parsed.clear();
    }
}

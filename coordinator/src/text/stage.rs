//! The text stage of the serve loop: tokens of running requests in, pieces of text out.
//!
//! It runs between the scheduler and the readers and knows neither. All its state follows from the
//! tokens so far, so it can be rebuilt from the journal.

use super::detokenize::Detokenizer;
use super::facts::TextFacts;
use super::stop::StopMatcher;
use crate::sched::{Delivery, Finish, RequestId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The detokenisers and stop matchers of the running requests.
#[derive(Debug)]
pub struct TextStage {
    facts: Arc<TextFacts>,
    open: BTreeMap<RequestId, AnswerText>,
    text: String,
}

/// The text of one delivery.
#[derive(Debug, PartialEq, Eq)]
pub struct Pushed<'a> {
    /// Text for the reader, which may be empty.
    pub text: &'a str,
    /// A stop string is complete, so the request must be finished as [`Finish::StopString`]. Later
    /// deliveries have no text.
    pub stop: bool,
}

#[derive(Debug)]
struct AnswerText {
    detokenizer: Detokenizer,
    stops: StopMatcher,
    stopped: bool,
}

impl TextStage {
    /// A stage without requests.
    pub fn new(facts: Arc<TextFacts>) -> Self {
        Self { facts, open: BTreeMap::new(), text: String::new() }
    }

    /// A request was admitted; its answer ends before any text of `stop`.
    pub fn open(&mut self, id: RequestId, stop: &[String]) {
        let answer = AnswerText {
            detokenizer: Detokenizer::default(),
            stops: StopMatcher::new(stop),
            stopped: false,
        };
        self.open.insert(id, answer);
    }

    /// Turns a delivery into text. The last delivery also releases what was held back.
    pub fn push(&mut self, delivery: &Delivery) -> Pushed<'_> {
        self.text.clear();
        let Some(answer) = self.open.get_mut(&delivery.id) else {
            return Pushed { text: "", stop: false };
        };
        if answer.stopped {
            return Pushed { text: "", stop: false };
        }
        for token in &delivery.tokens {
            answer.detokenizer.push(&self.facts.vocab, *token, &mut self.text);
        }
        let ended = matches!(delivery.finish, Some(Finish::Stop | Finish::Length));
        if ended {
            answer.detokenizer.finish(&mut self.text);
        }
        answer.stopped = answer.stops.push(&mut self.text);
        if ended && !answer.stopped {
            answer.stops.finish(&mut self.text);
        }
        Pushed { text: &self.text, stop: answer.stopped }
    }

    /// A request is over, however it ended.
    pub fn close(&mut self, id: RequestId) {
        self.open.remove(&id);
    }
}

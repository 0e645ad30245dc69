//! The text stage of the serve loop: deliveries of tokens in, pieces of text out.
//!
//! It runs between the scheduler and the mailboxes and knows neither. All its state follows from
//! the tokens delivered so far, so it can be rebuilt from the journal.

use super::detokenize::Detokenizer;
use super::facts::TextFacts;
use super::stop::StopMatcher;
use crate::sched::{Delivery, Finish, RequestId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Detokenisers and stop matchers of the requests that run.
#[derive(Debug)]
pub struct TextStage {
    facts: Arc<TextFacts>,
    open: BTreeMap<RequestId, AnswerText>,
    text: String,
}

/// What a delivery comes to.
#[derive(Debug, PartialEq, Eq)]
pub struct Pushed<'a> {
    /// Text for the reader, perhaps none.
    pub text: &'a str,
    /// A stop string is complete: the request must be finished as [`Finish::StopString`].
    /// Deliveries after this give nothing.
    pub stop: bool,
}

#[derive(Debug)]
struct AnswerText {
    detokenizer: Detokenizer,
    stops: StopMatcher,
    stopped: bool,
}

impl TextStage {
    /// None open.
    pub fn new(facts: Arc<TextFacts>) -> Self {
        Self { facts, open: BTreeMap::new(), text: String::new() }
    }

    /// A request was admitted.
    pub fn open(&mut self, id: RequestId, stop: &[String]) {
        let answer = AnswerText {
            detokenizer: Detokenizer::default(),
            stops: StopMatcher::new(stop),
            stopped: false,
        };
        self.open.insert(id, answer);
    }

    /// Turns a delivery into text. The last one also gives what was held back.
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

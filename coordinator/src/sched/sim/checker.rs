//! What each request must get, computed from its prompt alone, and whether it got that.
//!
//! Deliberately absent: block tables. Whoever reads them wrong gets another answer.

use std::collections::BTreeMap;

use binfer_proto::Token;

use super::cache_oracle::CacheOracle;
use super::chain::{Chain, SampleSeed};
use super::clients::salt_number;
use crate::sched::{Delivery, FailCause, Finish, Request, RequestId, SchedConfig, Tick};

pub(super) struct Checker {
    chain: Chain,
    context_max: usize,
    cache: CacheOracle,
    pub(super) live: BTreeMap<RequestId, Expected>,
}

pub(super) struct Expected {
    pub(super) request: Request,
    /// All tokens of the answer, without an end token.
    answer: Vec<Token>,
    finish: Finish,
    pub(super) delivered: usize,
}

impl Expected {
    /// The tokens of the prompt, and those that were delivered.
    pub(super) fn text(&self) -> Vec<Token> {
        [&self.request.prompt, &self.answer[..self.delivered]].concat()
    }
}

impl Checker {
    pub(super) fn new(chain: Chain, config: &SchedConfig) -> Self {
        let (context_max, cache) = (config.context_max as usize, CacheOracle::new(config));
        Self { chain, context_max, cache, live: BTreeMap::new() }
    }

    /// All requests are over, and nothing is cached.
    pub(super) fn lose_worker(&mut self) {
        self.live.clear();
        self.cache.forget();
    }

    pub(super) fn expect(&mut self, request: Request) {
        let prompt = request.prompt.len();
        let count = (request.max_tokens as usize).min(self.context_max - prompt);
        let sample_seed = SampleSeed { seed: request.seed, choice: request.choice };
        let is_end = |token| !request.ignore_eos && request.end_ids.contains(&token);
        let text = (salt_number(&request), request.prompt.as_slice());
        let mut answer = self.chain.continuation(sample_seed, text, count, is_end);
        self.cache.note(&request, [&request.prompt[..], &answer].concat());
        let stops = answer.last().is_some_and(|token| is_end(*token));
        if stops {
            answer.pop();
        }
        let finish = if stops { Finish::Stop } else { Finish::Length };
        self.live.insert(request.id, Expected { request, answer, finish, delivered: 0 });
    }

    /// Compares a delivery with what is due. The last one of a request removes it.
    pub(super) fn receive(&mut self, delivery: &Delivery, now: Tick) -> Result<(), String> {
        let id = delivery.id;
        let expected = self.live.get_mut(&id).ok_or("a delivery for a request that is over")?;
        for token in &delivery.tokens {
            let wanted = expected.answer.get(expected.delivered).ok_or("a token past the end")?;
            if token != wanted {
                let index = expected.delivered;
                return Err(format!("token {index} is {token} instead of {wanted}"));
            }
            expected.delivered += 1;
        }
        let logprobs = usize::from(expected.request.logprobs);
        let tokens = delivery.tokens.iter().flat_map(|token| std::iter::repeat_n(token, logprobs));
        if !delivery.logprobs.iter().map(|one| &one.token).eq(tokens) {
            return Err(format!("{:?} of {:?}", delivery.logprobs, delivery.tokens));
        }
        let whole = expected.delivered == expected.answer.len();
        let deadline = expected.request.queue_deadline;
        match delivery.finish {
            None if whole && expected.finish == Finish::Length => return Err("goes on".into()),
            Some(finish @ (Finish::Stop | Finish::Length))
                if finish != expected.finish || !whole =>
            {
                return Err(format!("{finish:?} after {} tokens", expected.delivered));
            }
            Some(Finish::Failed(FailCause::QueueTimeout))
                if expected.delivered > 0 || deadline.is_none_or(|deadline| now < deadline) =>
            {
                return Err("expired too early".into());
            }
            _ => {}
        }
        let usage = delivery.usage;
        let stop = usize::from(delivery.finish == Some(Finish::Stop));
        let counted = (usage.prompt as usize, usage.generated as usize);
        if counted != (expected.request.prompt.len(), expected.delivered + stop) {
            return Err(format!("counted {counted:?}"));
        }
        self.cache.check(&expected.request, usage)?;
        if delivery.finish.is_some() {
            self.cache.end(&expected.request, delivery);
            self.live.remove(&id);
        }
        Ok(())
    }
}

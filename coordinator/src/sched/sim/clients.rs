//! The clients: requests arrive, are refused where that is right, and are cancelled.
//!
//! Deliberately absent: what a request gets (`checker.rs`).

use std::sync::Arc;

use binfer_proto::Sampling;

use super::scenario::small;
use super::world::World;
use crate::sched::{Finish, Refused, Request, RequestId, TenantId, Tick};

impl World {
    pub(super) fn arrive(&mut self) -> Result<(), String> {
        if !self.prng.chance(self.scenario.arrival_percent) {
            return Ok(());
        }
        for _ in 0..self.prng.between(1, self.scenario.burst_max) {
            let request = self.request();
            self.log(format_args!("submit {request:?}"));
            let answer = self.scheduler.submit(request.clone());
            self.check("submit")?;
            match answer {
                Ok(()) => self.checker.expect(request),
                Err(refused) if self.justified(&refused, &request) => {
                    self.log(format_args!("{refused}"))
                }
                Err(refused) => return Err(format!("refused without reason: {refused}")),
            }
        }
        Ok(())
    }

    fn request(&mut self) -> Request {
        let mut request = self.request_of_its_own();
        if self.prng.chance(self.scenario.choice_percent) {
            let before = request.id.0 - 1;
            if let Some(before) = self.checker.live.get(&RequestId(before)) {
                let before = &before.request;
                request.prompt.clone_from(&before.prompt);
                request.tenant = before.tenant;
                request.cache_salt.clone_from(&before.cache_salt);
                request.choice = before.choice + 1;
            }
        }
        self.fleet.salts.insert(request.seed, salt_number(&request));
        request
    }

    fn request_of_its_own(&mut self) -> Request {
        let prng = &mut self.prng;
        let scenario = &self.scenario;
        let mut prompt = Vec::new();
        if !self.texts.is_empty() && !prng.chance(scenario.new_text_percent) {
            prompt.clone_from(&self.texts[prng.below(self.texts.len())]);
            prompt.truncate(prng.between(1, prompt.len()));
            if prng.chance(scenario.changed_percent) {
                let place = prng.below(prompt.len());
                prompt[place] = 96 - prompt[place];
            }
        }
        let len = prng.between(1, scenario.prompt_max);
        while prompt.len() < len {
            prompt.push(u32::try_from(prng.below(97)).unwrap());
        }
        prompt.truncate(scenario.prompt_max);
        self.next_id += 1;
        let deadline =
            prng.chance(scenario.deadline_percent).then(|| self.now.0 + prng.next() % 200);
        let penalised = Sampling { presence_penalty: 0.5, ..Sampling::GREEDY };
        Request {
            id: RequestId(self.next_id),
            prompt,
            max_tokens: u32::try_from(prng.between(1, scenario.answer_max)).unwrap(),
            end_ids: (0..scenario.ends).collect::<Arc<[_]>>(),
            ignore_eos: prng.chance(10),
            sampling: if self.next_id.is_multiple_of(3) { penalised } else { Sampling::GREEDY },
            biases: Vec::new(),
            logprobs: u8::try_from(self.next_id % 4).unwrap(),
            seed: self.next_id,
            choice: 0,
            tenant: TenantId(small(prng.below(scenario.tenants))),
            weights: 5,
            cache_salt: [None, Some("a".into()), Some("b".into())][prng.below(scenario.salts)]
                .clone(),
            queue_deadline: deadline.map(Tick),
            least: None,
        }
    }

    /// Whether a refusal is right, computed in another way than the scheduler does.
    fn justified(&self, refused: &Refused, request: &Request) -> bool {
        let config = &self.scenario.config;
        let (prompt, context_max) = (request.prompt.len(), config.context_max as usize);
        let len_max = context_max.min(prompt + request.max_tokens as usize);
        match refused {
            Refused::QueueFull { requests, tokens } => {
                *requests >= config.queue_max || tokens + prompt > config.queue_tokens_max
            }
            Refused::TooLong { .. } => prompt >= context_max,
            Refused::NeverFits { kv_group, .. } => {
                let group = &config.kv_groups[*kv_group];
                let most = (0..len_max - 1).map(|position| {
                    let block_tokens = group.block_tokens as usize;
                    let first = self.scenario.chain.first(*kv_group, position);
                    position / block_tokens - first / block_tokens + 1
                });
                most.max().unwrap() > group.blocks as usize
            }
            _ => false,
        }
    }

    pub(super) fn leave(&mut self) -> Result<(), String> {
        if self.checker.live.is_empty() || !self.prng.chance(self.scenario.cancel_percent) {
            return Ok(());
        }
        let place = self.prng.below(self.checker.live.len());
        let id = *self.checker.live.keys().nth(place).unwrap();
        self.finish(id, Finish::Cancelled)
    }
}

/// What keeps the blocks of a request apart from those of others, as one number.
pub(super) fn salt_number(request: &Request) -> u64 {
    let text = request.cache_salt.as_ref().map_or(0, |text| u64::from(text.as_bytes()[0]));
    request.weights ^ (u64::from(request.tenant.0) << 32) ^ (text << 16)
}

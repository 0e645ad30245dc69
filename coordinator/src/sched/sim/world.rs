//! One seed: a scheduler, a fleet and clients, turn by turn, with everything checked on the way.

use std::collections::VecDeque;
use std::sync::Arc;

use binfer_proto::{Epoch, Sampling};

use super::checker::Checker;
use super::fleet::{Fleet, Ran};
use super::prng::{Prng, mix};
use super::scenario::{Pace, Scenario};
use crate::sched::planted::Bug;
use crate::sched::{Counters, Delivery, Finish, Refused, Request, RequestId, Scheduler, Tick};

/// Plans of a run, at least; then arrivals stop.
const STEPS_MIN: u64 = 200;
const TURNS_MAX: u32 = 100_000;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    pub(super) bug: Option<Bug>,
    /// Every event goes to standard output.
    pub(super) log: bool,
    /// The scheduler checks itself after each call.
    pub(super) check: bool,
}

/// What a run was like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Of every plan and every delivery, in order.
    pub(super) digest: u64,
    pub(super) steps: u64,
    pub(super) counters: Counters,
}

pub(super) struct World {
    options: Options,
    scenario: Scenario,
    dice: Prng,
    scheduler: Scheduler,
    fleet: Fleet,
    checker: Checker,
    /// Steps that ran and whose result has not arrived.
    ran: VecDeque<Ran>,
    now: Tick,
    next_id: u64,
    /// Texts that are worth continuing.
    texts: Vec<Vec<u32>>,
    outcome: Outcome,
}

macro_rules! log {
    ($world:expr, $($text:tt)*) => {
        if $world.options.log {
            println!("{:>5} {}", $world.now.0, format_args!($($text)*));
        }
    };
}

pub(super) fn run(seed: u64, options: Options) -> Result<Outcome, String> {
    let mut dice = Prng(mix(seed ^ 0x5eed));
    let scenario = Scenario::new(&mut dice);
    let config = scenario.config.clone();
    let mut scheduler = Scheduler::new(config.clone()).map_err(|error| error.to_string())?;
    scheduler.bug = options.bug;
    scheduler.policy = scenario.policy;
    let mut fleet = Fleet::new(&config, scenario.chain.clone(), Prng(dice.next()));
    fleet.broken_percent = scenario.broken_percent;
    let context_max = config.context_max as usize;
    let mut world = World {
        checker: Checker::new(scenario.chain.clone(), context_max, config.prefix_cache),
        options,
        scenario,
        dice,
        scheduler,
        fleet,
        ran: VecDeque::new(),
        now: Tick(0),
        next_id: 0,
        texts: Vec::new(),
        outcome: Outcome { digest: seed, steps: 0, counters: Counters::default() },
    };
    log!(world, "{:#?}", world.scenario);
    world.live()?;
    Ok(world.outcome)
}

impl World {
    fn live(&mut self) -> Result<(), String> {
        let mut turns = 0;
        while self.outcome.steps < STEPS_MIN && turns < TURNS_MAX {
            turns += 1;
            self.now.0 += self.dice.below(5) as u64;
            self.arrive()?;
            self.leave()?;
            if self.dice.below(1000) < self.scenario.abort_permille {
                self.lose_worker()?;
            }
            self.turn()?;
        }
        if self.dice.chance(30) {
            self.scheduler.drain();
            log!(self, "drain");
        }
        while !self.scheduler.is_idle() {
            turns += 1;
            if turns > TURNS_MAX {
                return Err("requests never end".into());
            }
            self.now.0 += 1;
            self.turn()?;
        }
        if let Some(id) = self.checker.live.keys().next() {
            return Err(format!("request {} never ended", id.0));
        }
        let stats = self.scheduler.stats();
        let blocks = self.scenario.config.kv_groups.iter().map(|group| group.blocks as usize);
        if !blocks.eq(stats.blocks_free) {
            return Err("blocks are lost".into());
        }
        self.outcome.counters = stats.counters;
        Ok(())
    }

    /// One turn of the serve loop.
    fn turn(&mut self) -> Result<(), String> {
        match self.scenario.pace {
            Pace::Lockstep => {
                self.plan()?;
                self.absorb()
            }
            Pace::Overlap => {
                while self.plan()? {}
                self.absorb()
            }
            Pace::Mixed => {
                let plan = self.ran.is_empty() || self.dice.chance(60);
                if plan && self.plan()? {
                    return Ok(());
                }
                self.absorb()
            }
        }
    }

    fn plan(&mut self) -> Result<bool, String> {
        let plan = self.scheduler.plan(self.now);
        self.check("plan")?;
        for delivery in self.scheduler.take_expired() {
            log!(self, "expired {delivery:?}");
            self.receive(&delivery)?;
        }
        let Some(plan) = plan else {
            if self.ran.is_empty() && !self.checker.live.is_empty() {
                return Err("requests wait, nothing is in flight, and there is no plan".into());
            }
            return Ok(false);
        };
        log!(self, "{plan:?}");
        let ran = self.fleet.run(&plan).map_err(|cause| format!("step {}: {cause}", plan.step))?;
        if self.scheduler.plan_hash(plan.step) != Some(ran.result.plan_hash) {
            return Err(format!("step {}: the fleet ran another plan", plan.step));
        }
        self.outcome.digest = mix(self.outcome.digest ^ ran.result.plan_hash);
        self.outcome.steps += 1;
        self.ran.push_back(ran);
        Ok(true)
    }

    fn absorb(&mut self) -> Result<(), String> {
        let Some(ran) = self.ran.pop_front() else { return Ok(()) };
        let deliveries = self.scheduler.absorb(&ran.result).map_err(|error| error.to_string())?;
        self.check("absorb")?;
        // Each row with news of a request that is not over is one delivery, in the order of rows.
        let news = ran.rows.iter().filter(|(seed, news)| *news && self.is_live(*seed));
        let due: Vec<_> = news.map(|(seed, _)| RequestId(*seed)).collect();
        let came: Vec<_> = deliveries.iter().map(|delivery| delivery.id).collect();
        if due != came {
            return Err(format!("step {}: news of {came:?}, due {due:?}", ran.result.step));
        }
        for delivery in deliveries {
            let id = delivery.id;
            log!(self, "step {} {delivery:?}", ran.result.step);
            if delivery.finish.is_some() && self.texts.len() < 20 {
                self.texts.push(self.checker.live[&id].text());
            }
            self.receive(&delivery)?;
            if let Some(expected) = self.checker.live.get(&id) {
                if self.scheduler.journal(id) != Some(&expected.text()) {
                    return Err(format!("request {}: the journal is wrong", id.0));
                }
                if self.dice.chance(self.scenario.stop_string_percent) {
                    self.finish(id, Finish::StopString)?;
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self, delivery: &Delivery) -> Result<(), String> {
        let id = delivery.id.0;
        let hash = |hash, token: &u32| mix(hash ^ u64::from(*token));
        self.outcome.digest = delivery.tokens.iter().fold(self.outcome.digest ^ mix(id), hash);
        let name = |cause| format!("request {id}: {cause}");
        self.checker.receive(delivery, self.now).map_err(name)
    }

    fn is_live(&self, seed: u64) -> bool {
        self.checker.live.contains_key(&RequestId(seed))
    }

    fn arrive(&mut self) -> Result<(), String> {
        if !self.dice.chance(self.scenario.arrival_percent) {
            return Ok(());
        }
        for _ in 0..self.dice.between(1, self.scenario.burst_max) {
            let request = self.request();
            log!(self, "submit {request:?}");
            let answer = self.scheduler.submit(request.clone());
            self.check("submit")?;
            match answer {
                Ok(()) => self.checker.expect(request),
                Err(refused) if self.justified(&refused, &request) => log!(self, "{refused}"),
                Err(refused) => return Err(format!("refused without reason: {refused}")),
            }
        }
        Ok(())
    }

    fn request(&mut self) -> Request {
        let dice = &mut self.dice;
        let scenario = &self.scenario;
        let mut prompt = Vec::new();
        if !self.texts.is_empty() && !dice.chance(scenario.fresh_percent) {
            prompt.clone_from(&self.texts[dice.below(self.texts.len())]);
            prompt.truncate(dice.between(1, prompt.len()));
        }
        let len = dice.between(1, scenario.prompt_max);
        while prompt.len() < len {
            prompt.push(u32::try_from(dice.below(97)).unwrap());
        }
        prompt.truncate(scenario.prompt_max);
        self.next_id += 1;
        let deadline =
            dice.chance(scenario.deadline_percent).then(|| self.now.0 + dice.next() % 200);
        let request = Request {
            id: RequestId(self.next_id),
            prompt,
            max_tokens: u32::try_from(dice.between(1, scenario.answer_max)).unwrap(),
            end_ids: (0..scenario.ends).collect::<Arc<[_]>>(),
            ignore_eos: dice.chance(10),
            sampling: Sampling::GREEDY,
            seed: self.next_id,
            choice: 0,
            salt: dice.next() % scenario.salts,
            queue_deadline: deadline.map(Tick),
        };
        self.fleet.salts.insert(request.seed, request.salt);
        request
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

    fn leave(&mut self) -> Result<(), String> {
        if self.checker.live.is_empty() || !self.dice.chance(self.scenario.cancel_percent) {
            return Ok(());
        }
        let place = self.dice.below(self.checker.live.len());
        let id = *self.checker.live.keys().nth(place).unwrap();
        self.finish(id, Finish::Cancelled)
    }

    fn finish(&mut self, id: RequestId, why: Finish) -> Result<(), String> {
        log!(self, "finish {} {why:?}", id.0);
        let last = self.scheduler.finish(id, why);
        self.check("finish")?;
        let usage = last.ok_or(format!("request {} was over already", id.0))?;
        if self.scheduler.finish(id, why).is_some() {
            return Err(format!("request {} ends twice", id.0));
        }
        self.receive(&Delivery { id, tokens: Vec::new(), finish: Some(why), usage })
    }

    /// All requests end, and what is still on its way is of no use.
    fn lose_worker(&mut self) -> Result<(), String> {
        let ids = self.scheduler.abort_all();
        self.check("abort_all")?;
        log!(self, "abort {ids:?}");
        if !ids.iter().eq(self.checker.live.keys()) {
            return Err(format!("{ids:?} were aborted"));
        }
        self.checker.live.clear();
        self.fleet.reset(Epoch(self.scheduler.epoch().0));
        for ran in std::mem::take(&mut self.ran) {
            if self.scheduler.absorb(&ran.result) != Ok(Vec::new()) {
                return Err("a result of the last epoch was taken".into());
            }
        }
        Ok(())
    }

    fn check(&self, call: &str) -> Result<(), String> {
        if !self.options.check {
            return Ok(());
        }
        self.scheduler.check().map_err(|cause| format!("after {call}: {cause}"))
    }
}

//! One seed: a scheduler, a fleet and clients, turn by turn, with everything checked on the way.

use std::collections::VecDeque;
use std::fmt;

use binfer_proto::{Epoch, HashedPlan, Tokens};

use super::checker::Checker;
use super::fleet::{SimFleet, StepRun};
use super::prng::{Prng, mix};
use super::scenario::{Pace, Scenario};
use crate::sched::{Counters, Delivery, Finish, RequestId, Scheduler, Tick};

/// Plans after which no request arrives any more.
const STEPS_MIN: u64 = 200;
const TURNS_MAX: u32 = 100_000;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RunOptions {
    /// Whether every event is written to standard output.
    pub(crate) log: bool,
    /// Whether the scheduler checks itself after each call.
    pub(crate) check: bool,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunOutcome {
    /// A hash of every plan and every delivery, in order.
    pub(super) digest: u64,
    pub(super) steps: u64,
    pub(super) counters: Counters,
}

pub(super) struct World {
    options: RunOptions,
    pub(super) scenario: Scenario,
    pub(super) prng: Prng,
    pub(super) scheduler: Scheduler,
    pub(super) fleet: SimFleet,
    pub(super) checker: Checker,
    /// Steps that ran and whose result has not arrived.
    ran: VecDeque<StepRun>,
    pub(super) now: Tick,
    pub(super) next_id: u64,
    /// Texts that requests may continue.
    pub(super) texts: Vec<Vec<u32>>,
    outcome: RunOutcome,
}

pub(super) fn run(seed: u64, options: RunOptions) -> Result<RunOutcome, String> {
    let mut prng = Prng(mix(seed ^ 0x5eed));
    let scenario = Scenario::new(&mut prng);
    let config = scenario.config.clone();
    let mut scheduler = Scheduler::new(config.clone()).map_err(|error| error.to_string())?;
    scheduler.policy = scenario.policy;
    let mut fleet = SimFleet::new(&config, scenario.chain.clone(), Prng(prng.next()));
    fleet.non_finite_percent = scenario.non_finite_percent;
    let mut world = World {
        checker: Checker::new(scenario.chain.clone(), &config),
        options,
        scenario,
        prng,
        scheduler,
        fleet,
        ran: VecDeque::new(),
        now: Tick(0),
        next_id: 0,
        texts: Vec::new(),
        outcome: RunOutcome { digest: seed, steps: 0, counters: Counters::default() },
    };
    world.log(format_args!("{:#?}", world.scenario));
    world.live()?;
    Ok(world.outcome)
}

impl World {
    fn live(&mut self) -> Result<(), String> {
        let mut turns = 0;
        while self.outcome.steps < STEPS_MIN && turns < TURNS_MAX {
            turns += 1;
            self.now.0 += self.prng.below(5) as u64;
            self.arrive()?;
            self.leave()?;
            if self.prng.below(1000) < self.scenario.abort_permille {
                self.lose_worker()?;
            }
            self.turn()?;
        }
        if self.prng.chance(30) {
            self.scheduler.drain();
            self.log(format_args!("drain"));
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
                let plan = self.ran.is_empty() || self.prng.chance(60);
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
            self.log(format_args!("expired {delivery:?}"));
            self.receive(&delivery)?;
        }
        let Some(HashedPlan { plan, hash }) = plan else {
            if self.ran.is_empty() && !self.checker.live.is_empty() {
                return Err("requests wait, nothing is in flight, and there is no plan".into());
            }
            return Ok(false);
        };
        self.log(format_args!("{plan:?}"));
        let ran = self.fleet.run(&plan).map_err(|cause| format!("step {}: {cause}", plan.step))?;
        if hash != ran.result.plan_hash {
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
        // Each row that samples, or fails, for a request that is not over is one delivery, in the
        // order of rows.
        let rows = ran.rows.iter().filter(|(seed, delivers)| *delivers && self.is_live(*seed));
        let due: Vec<_> = rows.map(|(seed, _)| RequestId(*seed)).collect();
        let came: Vec<_> = deliveries.iter().map(|delivery| delivery.id).collect();
        if due != came {
            return Err(format!(
                "step {}: deliveries for {came:?}, due for {due:?}",
                ran.result.step
            ));
        }
        for delivery in deliveries {
            let id = delivery.id;
            self.log(format_args!("step {} {delivery:?}", ran.result.step));
            if delivery.finish.is_some() && self.texts.len() < 20 {
                self.texts.push(self.checker.live[&id].text());
            }
            self.receive(&delivery)?;
            if let Some(expected) = self.checker.live.get(&id) {
                if self.scheduler.journal(id) != Some(&expected.text()) {
                    return Err(format!("request {}: the journal is wrong", id.0));
                }
                if self.prng.chance(self.scenario.stop_string_percent) {
                    self.finish(id, Finish::StopString(0))?;
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

    pub(super) fn finish(&mut self, id: RequestId, why: Finish) -> Result<(), String> {
        self.log(format_args!("finish {} {why:?}", id.0));
        let last = self.scheduler.finish(id, why);
        self.check("finish")?;
        let usage = last.ok_or(format!("request {} was over already", id.0))?;
        if self.scheduler.finish(id, why).is_some() {
            return Err(format!("request {} ends twice", id.0));
        }
        let (tokens, logprobs) = (Tokens::new(), Vec::new());
        self.receive(&Delivery { id, tokens, logprobs, finish: Some(why), usage, end_token: None })
    }

    /// A worker is lost: all requests end, and results in flight are void.
    fn lose_worker(&mut self) -> Result<(), String> {
        let ids = self.scheduler.abort_all();
        self.check("abort_all")?;
        self.log(format_args!("abort {ids:?}"));
        if !ids.iter().eq(self.checker.live.keys()) {
            return Err(format!("{ids:?} were aborted"));
        }
        self.checker.lose_worker();
        self.fleet.reset(Epoch(self.scheduler.epoch().0));
        for ran in std::mem::take(&mut self.ran) {
            if self.scheduler.absorb(&ran.result) != Ok(Vec::new()) {
                return Err("a result of the last epoch was taken".into());
            }
        }
        Ok(())
    }

    /// Writes an event, if the options ask for that.
    pub(super) fn log(&self, text: fmt::Arguments<'_>) {
        if self.options.log {
            println!("{:>5} {text}", self.now.0);
        }
    }

    pub(super) fn check(&self, call: &str) -> Result<(), String> {
        if !self.options.check {
            return Ok(());
        }
        self.scheduler.check().map_err(|cause| format!("after {call}: {cause}"))
    }
}

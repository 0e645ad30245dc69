//! The step contract, rule by rule, in the smallest case that shows it.
//!
//! Deliberately absent: chance. What many sequences do to each other is for the simulator (`sim/`).

use std::sync::Arc;

use binfer_proto::{
    Epoch, HashedPlan, Input, Outputs, Rank, ReplicaId, Row, RowResult, RowStatus, Rows, Sampling,
    SlotId, StepResult, Token, Tokens,
};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::sched::*;

const END: Token = 0;

pub(super) fn config() -> SchedConfig {
    SchedConfig {
        replica: ReplicaId(0),
        epoch: Epoch(1),
        slots_max: 4,
        tokens_per_step_max: 16,
        context_max: 64,
        queue_max: 3,
        queue_tokens_max: 100,
        kv_groups: vec![KvGroupConfig { block_tokens: 4, blocks: 16, window: None }],
        prefix_cache: true,
    }
}

pub(super) fn request(id: u64, prompt: u32, max_tokens: u32) -> Request {
    Request {
        id: RequestId(id),
        prompt: (1..=prompt).collect(),
        max_tokens,
        end_ids: Arc::new([END]),
        ignore_eos: false,
        sampling: Sampling::GREEDY,
        biases: Vec::new(),
        logprobs: 0,
        seed: id,
        choice: 0,
        tenant: TenantId::default(),
        weights: 0,
        cache_salt: None,
        queue_deadline: None,
        least: None,
    }
}

fn scheduler(requests: &[(u64, u32, u32)]) -> Scheduler {
    let mut scheduler = Scheduler::new(config()).unwrap();
    for (id, prompt, max_tokens) in requests {
        scheduler.submit(request(*id, *prompt, *max_tokens)).unwrap();
    }
    scheduler
}

pub(super) fn result(sent: &HashedPlan, rows: &[&[Token]]) -> StepResult {
    let HashedPlan { plan, hash } = sent;
    let row = |tokens: &&[Token]| RowResult {
        status: RowStatus::Ok,
        tokens: Tokens::from_slice(tokens),
        logprobs: Vec::new(),
    };
    StepResult {
        replica: plan.replica,
        epoch: plan.epoch,
        step: plan.step,
        rank: Rank(0),
        plan_hash: *hash,
        digest: 0,
        rows: rows.iter().map(row).collect(),
        step_us: 0,
    }
}

/// News of request 1.
fn delivery(tokens: &[Token], finish: Option<Finish>, usage: Usage) -> Delivery {
    let (tokens, logprobs) = (Tokens::from_slice(tokens), Vec::new());
    let end_token = (finish == Some(Finish::Stop)).then_some(END);
    Delivery { id: RequestId(1), tokens, logprobs, finish, usage, end_token }
}

fn row(input: Input, start: u32, outputs: Outputs) -> Row {
    Row { slot: SlotId(0), input, start, outputs, logprobs: 0 }
}

#[test]
fn a_long_prompt_is_split_then_steady_rows_are_the_same() {
    let mut scheduler = scheduler(&[(1, 20, 9)]);
    let plan = |scheduler: &mut Scheduler| scheduler.plan(Tick(0)).unwrap();
    let first = plan(&mut scheduler);
    let chunk = row(Input::Tokens((1..=16).collect()), 0, Outputs::None);
    assert_eq!(first.plan.rows, Rows::List(vec![chunk]));
    let second = plan(&mut scheduler);
    let rest = row(Input::Tokens((17..=20).collect()), 16, Outputs::Last);
    assert_eq!(second.plan.rows, Rows::List(vec![rest]));
    assert_eq!(scheduler.plan(Tick(0)), None, "two are in flight");
    assert_eq!(scheduler.absorb(&result(&first, &[&[]])), Ok(vec![]));
    let third = plan(&mut scheduler);
    assert_eq!(third.plan.rows, Rows::Same, "a token on, though nobody knows which");
    let hash = third.plan.hash(&[row(Input::LastSample, 20, Outputs::Last)]);
    assert_eq!(third.hash, hash);
}

#[test]
fn a_result_must_be_of_the_plan_that_is_due() {
    let mut scheduler = scheduler(&[(1, 3, 9)]);
    let plans = [scheduler.plan(Tick(0)).unwrap(), scheduler.plan(Tick(0)).unwrap()];
    let good = result(&plans[0], &[&[5]]);
    let step = plans[0].plan.step;
    let refused = |change: &dyn Fn(&mut StepResult)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad
    };
    let error = scheduler.absorb(&result(&plans[1], &[&[5]]));
    assert_eq!(error, Err(AbsorbError::Step { got: plans[1].plan.step, want: Some(step) }));
    let error = scheduler.absorb(&refused(&|bad| bad.plan_hash ^= 1));
    assert!(matches!(error, Err(AbsorbError::PlanHash { .. })));
    let error = scheduler.absorb(&refused(&|bad| bad.rows.clear()));
    assert_eq!(error, Err(AbsorbError::RowCount { step, got: 0, want: 1 }));
    let error = scheduler.absorb(&refused(&|bad| bad.rows[0].tokens.push(6)));
    assert_eq!(error, Err(AbsorbError::TokenCount { step, row: 0, got: 2, want: 1 }));
    let error = scheduler.absorb(&refused(&|bad| bad.replica = ReplicaId(9)));
    assert_eq!(error, Err(AbsorbError::Replica { got: 9, want: 0 }));
    let error = scheduler.absorb(&refused(&|bad| bad.epoch = Epoch(2)));
    assert_eq!(error, Err(AbsorbError::Epoch { got: Epoch(2), now: Epoch(1) }));
    assert_eq!(scheduler.absorb(&good).unwrap()[0].tokens[..], [5]);
}

#[test]
fn an_end_by_count_does_not_overrun() {
    let mut scheduler = scheduler(&[(1, 3, 2)]);
    let plans = [scheduler.plan(Tick(0)).unwrap(), scheduler.plan(Tick(0)).unwrap()];
    scheduler.absorb(&result(&plans[0], &[&[5]])).unwrap();
    assert_eq!(scheduler.plan(Tick(0)), None, "its last token is in flight");
    let last = scheduler.absorb(&result(&plans[1], &[&[6]])).unwrap();
    let usage = Usage { prompt: 3, generated: 2, cached: 0, cache_miss: Some(CacheMiss::TooShort) };
    assert_eq!(last, [delivery(&[6], Some(Finish::Length), usage)]);
    assert!(scheduler.is_idle());
}

#[test]
fn what_follows_an_end_token_is_dropped() {
    let mut scheduler = scheduler(&[(1, 3, 9)]);
    let plans = [scheduler.plan(Tick(0)).unwrap(), scheduler.plan(Tick(0)).unwrap()];
    let last = scheduler.absorb(&result(&plans[0], &[&[END]])).unwrap();
    let usage = Usage { prompt: 3, generated: 1, cached: 0, cache_miss: Some(CacheMiss::TooShort) };
    assert_eq!(last, [delivery(&[], Some(Finish::Stop), usage)]);
    assert!(!scheduler.is_idle(), "a step is in flight");
    assert_eq!(scheduler.absorb(&result(&plans[1], &[&[7]])), Ok(vec![]));
    assert!(scheduler.is_idle());
    assert_eq!(scheduler.stats().counters.overruns_dropped, 1);
}

#[test]
fn a_full_block_is_shared_from_the_next_plan_on() {
    let mut scheduler = scheduler(&[(1, 9, 9), (2, 9, 9)]);
    let first = scheduler.plan(Tick(0)).unwrap();
    assert_eq!(first.plan.open.len(), 1, "the other waits for the blocks that this plan fills");
    let hits = |scheduler: &Scheduler| scheduler.stats().counters.prefix_tokens_hit;
    assert_eq!(hits(&scheduler), 0, "written by this plan");
    scheduler.submit(request(3, 8, 9)).unwrap();
    let second = scheduler.plan(Tick(0)).unwrap();
    assert_eq!(second.plan.open.len(), 2);
    assert_eq!(hits(&scheduler), 8 + 4, "never the last token of a prompt");
    scheduler.check().unwrap();
}

/// Two blocks with one XXH3-128, seeded with salt 0, behind 16 zeros for no parent. They were found
/// in a minute, by the sums of products that its first lanes are.
fn colliding_blocks() -> [Vec<Token>; 2] {
    [[682, 1612, 1503, 216, 815, 1172], [1109, 1051, 397, 131, 1494, 1818]].map(|tokens| {
        let mut block = vec![5; 64];
        let entries = [4, 5, 20, 21, 36, 37];
        entries.into_iter().zip(tokens).for_each(|(place, token)| block[place] = token);
        block
    })
}

#[test]
fn texts_that_collide_under_a_hash_share_no_block() {
    let blocks = colliding_blocks();
    let hash = |block: &Vec<Token>| {
        let tokens = [0; 4].iter().chain(block).flat_map(|token| token.to_le_bytes());
        xxh3_128_with_seed(&tokens.collect::<Vec<_>>(), 0)
    };
    assert_eq!(hash(&blocks[0]), hash(&blocks[1]));
    let group = KvGroupConfig { block_tokens: 64, blocks: 16, window: None };
    let (kv_groups, context_max, tokens_per_step_max) = (vec![group], 256, 256);
    let config = SchedConfig { kv_groups, context_max, tokens_per_step_max, ..config() };
    let mut scheduler = Scheduler::new(config).unwrap();
    let mut hits = |id, block: &[Token]| {
        let before = scheduler.stats().counters.prefix_tokens_hit;
        let prompt = [block, &[9, 9]].concat();
        scheduler.submit(Request { prompt, ..request(id, 1, 2) }).unwrap();
        let plan = scheduler.plan(Tick(0)).unwrap();
        scheduler.absorb(&result(&plan, &[&[7]])).unwrap();
        scheduler.finish(RequestId(id), Finish::Cancelled);
        scheduler.check().unwrap();
        scheduler.stats().counters.prefix_tokens_hit - before
    };
    assert_eq!(hits(1, &blocks[0]), 0);
    assert_eq!(hits(2, &blocks[1]), 0, "it would have read the cache of another text");
    assert_eq!((hits(3, &blocks[0]), hits(4, &blocks[1])), (64, 64));
}

#[test]
fn a_plan_carries_a_bounded_number_of_histories() {
    let mut scheduler = scheduler(&[]);
    scheduler.policy.history_tokens_max = 7;
    let opened = |scheduler: &mut Scheduler, prompts: [u32; 3]| {
        for (id, prompt) in (1..).zip(prompts) {
            let mut request = request(id, prompt, 2);
            request.sampling.presence_penalty = 1.0;
            scheduler.submit(request).unwrap();
        }
        let plan = scheduler.plan(Tick(0)).unwrap();
        let lens: Vec<usize> = plan.plan.open.iter().map(|open| open.history.len()).collect();
        scheduler.abort_all();
        lens
    };
    assert_eq!(opened(&mut scheduler, [3, 2, 2]), [3, 2, 2]);
    assert_eq!(opened(&mut scheduler, [3, 3, 2]), [3, 3], "the third one waits for the next plan");
    assert_eq!(opened(&mut scheduler, [9, 1, 1]), [9], "alone it may be as long as it is");
}

#[test]
fn a_new_epoch_knows_nothing_of_the_old_one() {
    let mut scheduler = scheduler(&[(1, 9, 9), (2, 3, 3)]);
    let old = scheduler.plan(Tick(0)).unwrap();
    let stale = result(&old, &[&[5], &[5]]);
    assert_eq!(scheduler.abort_all(), [RequestId(1), RequestId(2)]);
    assert!(scheduler.is_idle());
    assert_eq!(scheduler.absorb(&stale), Ok(vec![]));
    scheduler.submit(request(3, 9, 9)).unwrap();
    let plan = scheduler.plan(Tick(0)).unwrap().plan;
    assert_eq!((plan.epoch, plan.step, plan.close.len()), (Epoch(2), old.plan.step, 0));
    assert_eq!(scheduler.stats().counters.prefix_hits, 0);
}

#[test]
fn one_bad_row_fails_one_request() {
    let mut scheduler = scheduler(&[(1, 9, 9), (2, 3, 9)]);
    let plan = scheduler.plan(Tick(0)).unwrap();
    let mut bad = result(&plan, &[&[], &[5]]);
    bad.rows[0].status = RowStatus::NonFinite;
    let news = scheduler.absorb(&bad).unwrap();
    assert_eq!(news[0].finish, Some(Finish::Failed(FailCause::NonFinite)));
    assert_eq!((news[1].finish, news[1].tokens.as_slice()), (None, [5].as_slice()));
    assert_eq!(scheduler.stats().blocks_cached, [0], "what it computed is not shared");
}

#[test]
fn refusals_name_their_cause() {
    let mut scheduler = scheduler(&[(1, 3, 3)]);
    let mut refused = |request| scheduler.submit(request).unwrap_err();
    let mut hot = request(2, 3, 3);
    hot.sampling.temperature = -1.0;
    assert!(matches!(refused(hot), Refused::Sampling(_)));
    assert_eq!(refused(request(1, 3, 3)), Refused::Duplicate(RequestId(1)));
    assert_eq!(refused(request(2, 0, 3)), Refused::EmptyPrompt);
    assert_eq!(refused(request(2, 3, 0)), Refused::NothingToGenerate);
    assert_eq!(refused(request(2, 64, 3)), Refused::TooLong { prompt: 64, context_max: 64 });
    scheduler.drain();
    assert_eq!(scheduler.submit(request(2, 3, 3)), Err(Refused::Draining));
    let small = KvGroupConfig { block_tokens: 4, blocks: 4, window: None };
    let mut scheduler = Scheduler::new(SchedConfig { kv_groups: vec![small], ..config() }).unwrap();
    let never = Refused::NeverFits { kv_group: 0, needed: 5, blocks: 4 };
    assert_eq!(scheduler.submit(request(1, 10, 8)), Err(never.clone()));
    assert!(never.is_client_error());
    assert_eq!(scheduler.submit(request(1, 10, 7)), Ok(()), "the last token is not written");
}

#[test]
fn the_queue_is_bounded_and_patience_ends() {
    let mut scheduler = scheduler(&[(1, 3, 3), (2, 3, 3)]);
    let mut late = request(3, 60, 3);
    late.queue_deadline = Some(Tick(50));
    scheduler.submit(late).unwrap();
    let full = Refused::QueueFull { requests: 3, tokens: 66 };
    assert_eq!(scheduler.submit(request(4, 3, 3)), Err(full.clone()));
    assert!(!full.is_client_error());
    assert!(scheduler.plan(Tick(49)).is_some());
    assert!(scheduler.take_expired().is_empty());
    scheduler.plan(Tick(50));
    let expired = scheduler.take_expired();
    assert_eq!(expired[0].finish, Some(Finish::Failed(FailCause::QueueTimeout)));
    assert_eq!(scheduler.journal(RequestId(3)), None);
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let error = Scheduler::new(SchedConfig { queue_max: 0, ..config() }).unwrap_err();
    assert_eq!(error, SchedConfigError::Zero { name: "queue_max" });
    let error = Scheduler::new(SchedConfig { tokens_per_step_max: 3, ..config() }).unwrap_err();
    assert_eq!(error, SchedConfigError::StepTooSmall { tokens: 3, slots: 4 });
}

//! What an answer says of the prefix cache, in the smallest cases that show it.
//!
//! Deliberately absent: hits that must not be. The simulator (`sim/`) looks for those.

use binfer_proto::{Outputs, Rows};

use crate::sched::rules::{config, request, result};
use crate::sched::*;

/// Runs a prompt to its end, an answer of one token; what is said of the cache.
fn run(scheduler: &mut Scheduler, request: Request) -> (u32, CacheMiss) {
    let id = request.id;
    scheduler.submit(Request { max_tokens: 1, ..request }).unwrap();
    loop {
        let plan = scheduler.plan(Tick(0)).unwrap();
        let rows = match &plan.plan.rows {
            Rows::List(rows) => rows.clone(),
            Rows::Same => unreachable!("answers have one token"),
        };
        let tokens: &[&[Token]] = if rows[0].outputs == Outputs::Last { &[&[7]] } else { &[&[]] };
        let news = scheduler.absorb(&result(&plan, tokens)).unwrap();
        scheduler.check().unwrap();
        if let Some(last) = news.first() {
            assert_eq!(last.id, id);
            return (last.usage.cached, last.usage.cache_miss.unwrap());
        }
    }
}

fn changed(id: u64, prompt: u32, token: usize) -> Request {
    let mut request = request(id, prompt, 1);
    request.prompt[token] = 90;
    request
}

#[test]
fn an_answer_says_at_which_token_its_prompt_parts_from_the_nearest_cached_one() {
    let group = KvGroupConfig { block_tokens: 4, blocks: 99, window: None };
    let roomy = SchedConfig { kv_groups: vec![group], ..config() };
    let mut scheduler = Scheduler::new(roomy).unwrap();
    let different = |token| CacheMiss::Different { token };
    assert_eq!(run(&mut scheduler, request(1, 30, 1)), (0, different(0)), "nothing is cached");
    assert_eq!(run(&mut scheduler, request(2, 30, 1)), (28, CacheMiss::TooShort));
    assert_eq!(run(&mut scheduler, changed(3, 30, 13)), (12, different(13)));
    assert_eq!(run(&mut scheduler, changed(4, 30, 3)), (0, different(3)), "of a prompt's head");
    assert_eq!(run(&mut scheduler, changed(5, 30, 2)), (0, different(2)));
    let mut nearer = changed(6, 30, 2);
    nearer.prompt[3] = 91;
    assert_eq!(run(&mut scheduler, nearer), (0, different(3)), "of the nearest cached one");
    assert_eq!(run(&mut scheduler, request(7, 40, 1)), (28, different(28)), "cached is no more");
    assert_eq!(run(&mut scheduler, request(8, 4, 1)), (0, CacheMiss::TooShort));
    let misses = scheduler.stats().counters.prefix_misses;
    assert_eq!(misses, CacheMisses { too_short: 2, evicted: 0, different: 6, salt: 0 });
}

#[test]
fn a_prompt_whose_blocks_went_to_others_was_evicted() {
    let mut scheduler = Scheduler::new(config()).unwrap();
    run(&mut scheduler, request(1, 30, 1));
    for (id, place) in [(2, 1), (3, 2), (4, 3)] {
        run(&mut scheduler, changed(id, 60, place));
    }
    assert_eq!(run(&mut scheduler, request(5, 30, 1)), (0, CacheMiss::Evicted));
    let stats = scheduler.stats().counters.prefix_misses;
    assert_eq!(stats.evicted, 1);
}

#[test]
fn salts_share_nothing_and_hear_nothing_of_each_other() {
    let mut scheduler = Scheduler::new(config()).unwrap();
    let salted = |id, tenant, salt: Option<&str>| Request {
        tenant: TenantId(tenant),
        cache_salt: salt.map(Into::into),
        ..request(id, 30, 1)
    };
    run(&mut scheduler, salted(1, 0, None));
    let salts = [(0, Some("a")), (0, Some("")), (1, None), (2, None), (1, Some("a"))];
    for (id, (tenant, salt)) in (2..).zip(salts) {
        assert_eq!(run(&mut scheduler, salted(id, tenant, salt)), (0, CacheMiss::Salt));
        let mut other = salted(id + 10, tenant, salt);
        other.prompt[2] = 90;
        assert_eq!(run(&mut scheduler, other), (0, CacheMiss::Different { token: 2 }));
        assert!(run(&mut scheduler, salted(id + 20, tenant, salt)).0 > 0, "within a salt");
    }
}

#[test]
fn without_a_prefix_cache_an_answer_says_so() {
    let mut scheduler = Scheduler::new(SchedConfig { prefix_cache: false, ..config() }).unwrap();
    for id in 1..3 {
        assert_eq!(run(&mut scheduler, request(id, 30, 1)), (0, CacheMiss::Disabled));
    }
}

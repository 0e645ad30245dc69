//! What a window is worth: a long text keeps few blocks of it, and can be continued all the same.
//!
//! The pools are those of a model like gpt-oss, every other layer of which sees 128 positions.

use binfer_proto::{HashedPlan, Input, Outputs, Row, Rows, Token};

use super::rules::{config, request, result};
use crate::sched::*;

const BLOCK_TOKENS: u32 = 64;
const WINDOW: u32 = 128;
/// A window that begins in the middle of a block touches one block more than it fills.
const WINDOW_BLOCKS: u32 = 3;
const STEP_TOKENS: u32 = 1024;

/// A scheduler whose first KV group has a window, and so many blocks.
fn scheduler(window_blocks: u32) -> Scheduler {
    let kv_group = |blocks, window| KvGroupConfig { block_tokens: BLOCK_TOKENS, blocks, window };
    let config = SchedConfig {
        tokens_per_step_max: STEP_TOKENS,
        context_max: 60_000,
        queue_tokens_max: 100_000,
        kv_groups: vec![kv_group(window_blocks, Some(WINDOW)), kv_group(2_000, None)],
        ..config()
    };
    Scheduler::new(config).unwrap()
}

/// Runs until nothing is left, each request's token being its own number. Returns the most blocks
/// with a window that requests owned at once.
fn run(scheduler: &mut Scheduler) -> u32 {
    let mut owned = 0;
    let mut rows_before = Vec::new();
    while let Some(sent) = scheduler.plan(Tick(0)) {
        let free = u32::try_from(scheduler.stats().blocks_free[0]).unwrap();
        owned = owned.max(scheduler.config.kv_groups[0].blocks - free);
        rows_before = samples(&sent, rows_before);
        let rows: Vec<&[Token]> =
            rows_before.iter().map(|samples| if *samples { &[7][..] } else { &[] }).collect();
        scheduler.absorb(&result(&sent, &rows)).unwrap();
    }
    scheduler.check().unwrap();
    assert!(scheduler.is_idle());
    owned
}

/// Which rows of a plan sample a token. Those that are the same as before are decode rows.
fn samples(sent: &HashedPlan, before: Vec<bool>) -> Vec<bool> {
    match &sent.plan.rows {
        Rows::Same => before,
        Rows::List(rows) => {
            let of_row =
                |row: &Row| matches!(row.input, Input::LastSample) || row.outputs == Outputs::Last;
            rows.iter().map(of_row).collect()
        }
    }
}

#[test]
fn a_long_answer_keeps_the_blocks_of_one_window() {
    let mut scheduler = scheduler(WINDOW_BLOCKS);
    scheduler.submit(request(1, 100, 20_000)).unwrap();
    assert!(run(&mut scheduler) <= WINDOW_BLOCKS);
    let counters = scheduler.stats().counters;
    assert_eq!((counters.exhausted, counters.preemptions), (0, 0));
    assert_eq!(counters.window_blocks_freed, u64::from((20_098 - WINDOW + 1) / BLOCK_TOKENS));
}

#[test]
fn a_long_prompt_keeps_the_blocks_of_one_window_and_one_chunk() {
    let chunk = STEP_TOKENS / BLOCK_TOKENS;
    let mut scheduler = scheduler(WINDOW_BLOCKS + chunk);
    scheduler.submit(request(1, 50_000, 2)).unwrap();
    assert!(run(&mut scheduler) <= WINDOW_BLOCKS + chunk);
    let counters = scheduler.stats().counters;
    assert_eq!((counters.exhausted, counters.preemptions), (0, 0));
}

#[test]
fn a_pool_of_all_windows_and_one_step_never_preempts() {
    let slots = config().slots_max;
    let blocks = slots * WINDOW_BLOCKS + STEP_TOKENS / BLOCK_TOKENS;
    let mut scheduler = scheduler(blocks);
    for (id, prompt) in [(1, 5_007), (2, 10_007), (3, 15_007)] {
        scheduler.submit(request(id, prompt, 3_000)).unwrap();
    }
    run(&mut scheduler);
    let counters = scheduler.stats().counters;
    assert_eq!((counters.exhausted, counters.preemptions), (0, 0));
}

/// The prompt tokens that a request finds in the cache which continues the text of the first one.
fn continued(scheduler: &mut Scheduler, id: u64, known: u32) -> u64 {
    let before = scheduler.stats().counters.prefix_tokens_hit;
    scheduler.submit(request(id, known + 300, 2)).unwrap();
    run(scheduler);
    scheduler.stats().counters.prefix_tokens_hit - before
}

#[test]
fn a_text_is_continued_from_its_last_window() {
    let mut scheduler = scheduler(40);
    scheduler.submit(request(1, 6_400, 2)).unwrap();
    run(&mut scheduler);
    assert_eq!(continued(&mut scheduler, 2, 6_400), 6_400);
}

#[test]
fn a_long_answer_does_not_push_the_windows_of_other_texts_out_of_the_cache() {
    let mut scheduler = scheduler(12);
    scheduler.submit(request(1, 640, 2)).unwrap();
    run(&mut scheduler);
    let mut long = request(2, 1, 9_000);
    long.prompt = vec![9_999; 10];
    scheduler.submit(long).unwrap();
    run(&mut scheduler);
    assert_eq!(continued(&mut scheduler, 3, 640), 640);
}

#[test]
fn a_prefix_whose_window_is_gone_is_no_hit() {
    let mut scheduler = scheduler(20);
    scheduler.submit(request(1, 6_400, 2)).unwrap();
    run(&mut scheduler);
    let mut other = request(2, 1, 2);
    other.prompt = vec![9_999; 6_400];
    scheduler.submit(other).unwrap();
    run(&mut scheduler);
    assert!(scheduler.stats().blocks_cached[1] >= 200, "all blocks of the other group are there");
    assert_eq!(continued(&mut scheduler, 3, 6_400), 0);
}

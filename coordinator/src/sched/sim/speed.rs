//! What a step costs at 64 and 256 running sequences; printed, and bounded loosely.

use std::sync::Arc;
use std::time::Instant;

use binfer_proto::{
    Epoch, GroupId, Outputs, Rank, RowResult, RowStatus, Rows, Sampling, StepResult,
};

use crate::sched::{KvGroupConfig, Request, RequestId, SchedConfig, Scheduler, Tick};

const STEPS: u64 = 2_000;
/// For a debug build on a busy machine; a release build takes a few.
const STEP_US_MAX: u128 = 1_000;

#[test]
fn steps_are_cheap() {
    for streams in [64, 256] {
        let (mut scheduler, mut times) = (scheduler(streams), Vec::new());
        for _ in 0..STEPS {
            let begin = Instant::now();
            let plan = scheduler.plan(Tick(0)).unwrap();
            let planned = begin.elapsed();
            let samples: Vec<usize> = match &plan.rows {
                Rows::Same => vec![1; streams as usize],
                Rows::List(rows) => {
                    rows.iter().map(|row| usize::from(row.outputs == Outputs::Last)).collect()
                }
            };
            let row = |count| RowResult {
                status: RowStatus::Ok,
                tokens: vec![1; count],
                logprobs: Vec::new(),
            };
            let result = StepResult {
                group: plan.group,
                epoch: plan.epoch,
                step: plan.step,
                rank: Rank(0),
                plan_hash: scheduler.plan_hash(plan.step).unwrap(),
                digest: 0,
                rows: samples.into_iter().map(row).collect(),
                step_us: 0,
            };
            let begin = Instant::now();
            scheduler.absorb(&result).unwrap();
            times.push((planned + begin.elapsed()).as_nanos());
        }
        times.sort_unstable();
        let median = times[times.len() / 2];
        println!("{streams} streams: {}.{:03} us a step", median / 1000, median % 1000);
        assert!(median < STEP_US_MAX * 1000, "{median} ns a step");
    }
}

fn scheduler(streams: u32) -> Scheduler {
    let group = |window| KvGroupConfig { block_tokens: 64, blocks: streams * 40, window };
    let mut scheduler = Scheduler::new(SchedConfig {
        group: GroupId(0),
        epoch: Epoch(1),
        slots_max: streams,
        tokens_per_step_max: 512,
        context_max: 4_096,
        queue_max: 1_000,
        queue_tokens_max: 1_000_000,
        kv_groups: vec![group(None), group(Some(128))],
        prefix_cache: true,
    })
    .unwrap();
    for id in 0..u64::from(streams) {
        let prompt = (0..30).map(|index| u32::try_from(id).unwrap() + index).collect();
        let request = Request {
            id: RequestId(id),
            prompt,
            max_tokens: 4_000,
            end_ids: Arc::new([0]),
            ignore_eos: false,
            sampling: Sampling::GREEDY,
            seed: 0,
            choice: 0,
            salt: 0,
            queue_deadline: None,
        };
        scheduler.submit(request).unwrap();
    }
    scheduler
}

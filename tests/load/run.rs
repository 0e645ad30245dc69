//! The loop of `coordinator/src/serve.rs` in small, and what must hold at its end.

use std::time::Instant;

use binfer_coordinator::sched::{Scheduler, Tick};
use binfer_shard::Checkpoint;

use super::clients::Clients;
use super::pair::{CONTEXT_MAX, Pair, sched_config};

/// What host memory may grow by: the allocator's own habits.
const HOST_GROWTH_BYTES: u64 = 16 << 20;

/// Steps after which it says so.
const REPORT: u64 = 20_000;

/// How long, and how memory is looked at.
pub(crate) struct Course<'a> {
    pub(crate) steps: u64,
    /// When all buffers have been used once.
    pub(crate) settled: u64,
    /// Free bytes of the device; nothing where there is none.
    pub(crate) device_bytes: &'a dyn Fn() -> Option<u64>,
}

/// Drives `pair` through the course.
pub(crate) fn run(source: &Checkpoint, mut pair: Pair, course: &Course<'_>) {
    let config = sched_config(source);
    let blocks: Vec<usize> = config.kv_groups.iter().map(|group| group.blocks as usize).collect();
    let mut sched = Scheduler::new(config).unwrap();
    let mut clients = Clients::new(source.spec().vocab, CONTEXT_MAX);
    let (began, mut steps, mut reported, mut before) = (Instant::now(), 0, 0, None);
    while steps < course.steps || !sched.is_idle() {
        if steps < course.steps {
            clients.act(&mut sched);
        }
        while let Some(plan) = sched.plan(Tick(steps)) {
            pair.launch(&plan.plan);
            steps += 1;
        }
        if let Some(result) = pair.collect() {
            let news = sched.absorb(&result).unwrap();
            news.iter().for_each(|delivery| clients.receive(delivery));
        }
        if steps >= course.settled && before.is_none() {
            before = Some(((course.device_bytes)(), host_bytes()));
        }
        if steps >= reported + REPORT {
            reported = steps;
            eprintln!("{steps} steps, {:.1} s: all equal", began.elapsed().as_secs_f64());
        }
    }
    let (device, host) = before.expect("a course beyond its settling");
    let stats = sched.stats();
    let counters = stats.counters;
    eprintln!(
        "{steps} steps in {:.1} s: {} requests ended, {} given up, {counters:?}",
        began.elapsed().as_secs_f64(),
        clients.ended,
        clients.cancelled
    );
    assert_eq!(clients.live(), 0, "requests that never ended");
    assert_eq!(stats.blocks_free, blocks, "blocks were lost");
    let (now, free) = ((course.device_bytes)(), device);
    assert!(now >= free, "of the device {free:?} bytes were free, and now {now:?}");
    let grown = host_bytes().saturating_sub(host);
    assert!(grown <= HOST_GROWTH_BYTES, "host memory grew by {grown} bytes");
    // What the course is for did happen.
    assert!(clients.ended > 0 && clients.cancelled > 0);
    assert!(counters.preemptions > 0 && counters.cancels_in_flight > 0);
    assert!(counters.prompts_split > 0 && counters.window_blocks_freed > 0);
    assert!(counters.prefix_hits > 0 && counters.overruns_dropped > 0);
}

/// What this process has in memory.
fn host_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

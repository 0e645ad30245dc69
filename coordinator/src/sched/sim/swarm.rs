//! Runs many seeds, each twice, and counts which troubles they met.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::world::{RunOptions, RunOutcome, run};
use crate::sched::Counters;

const SEEDS: u64 = 2_000;
/// With fewer seeds the percentages are not checked.
const SEEDS_COVERED_MIN: u64 = 500;
/// Percent of seeds that must meet each trouble.
const COVERED_MIN: u64 = 5;

/// A trouble's name, and how often a run met it.
type Trouble = (&'static str, fn(&Counters) -> u64);

const TROUBLES: [Trouble; 13] = [
    ("preemption", |c| c.preemptions),
    ("pinned", |c| c.pinned),
    ("preemption in flight", |c| c.preemptions_in_flight),
    ("cancel in flight", |c| c.cancels_in_flight),
    ("overrun dropped", |c| c.overruns_dropped),
    ("pool exhausted", |c| c.exhausted),
    ("split prompt", |c| c.prompts_split),
    ("window blocks freed", |c| c.window_blocks_freed),
    ("prefix hit", |c| c.prefix_hits),
    ("miss: too short", |c| c.prefix_misses.too_short),
    ("miss: evicted", |c| c.prefix_misses.evicted),
    ("miss: different", |c| c.prefix_misses.different),
    ("miss: salt", |c| c.prefix_misses.salt),
];

/// Runs a seed. A panic is a finding like any other.
pub(crate) fn run_caught(seed: u64, options: RunOptions) -> Result<RunOutcome, String> {
    catch_unwind(AssertUnwindSafe(|| run(seed, options))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).into()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

#[test]
fn seeds() {
    let text = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    let number = |name| text(name).map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("BINFER_SIM_SEED") {
        let outcome = run_caught(seed, RunOptions { log: true, check: true });
        println!("{outcome:#?}");
        outcome.unwrap();
        return;
    }
    let seeds = number("BINFER_SIM_SEEDS").unwrap_or(SEEDS);
    let begin = Instant::now();
    let mut steps = 0;
    let mut covered = [0_u64; TROUBLES.len()];
    for seed in 0..seeds {
        let outcome = run_caught(seed, RunOptions { log: false, check: true });
        let outcome = outcome.unwrap_or_else(|cause| fail(seed, &cause));
        let again = run_caught(seed, RunOptions::default());
        if again != Ok(outcome) {
            fail(seed, &format!("the second run was different: {again:?}"));
        }
        steps += outcome.steps;
        for (count, (_, trouble)) in covered.iter_mut().zip(TROUBLES) {
            *count += u64::from(trouble(&outcome.counters) > 0);
        }
    }
    // Not `println!`, whose output the test runner drops for tests that pass.
    let mut out = std::io::stderr().lock();
    let seconds = begin.elapsed().as_secs_f64();
    writeln!(out, "\nsimulator: {seeds} seeds, {steps} steps, {seconds:.1} s").unwrap();
    for (count, (name, _)) in covered.iter().zip(TROUBLES) {
        let percent = count * 100 / seeds.max(1);
        writeln!(out, "  {name:22} {count:>7} seeds, {percent:>3} %").unwrap();
    }
    if seeds < SEEDS_COVERED_MIN {
        return;
    }
    for (count, (name, _)) in covered.iter().zip(TROUBLES) {
        assert!(count * 100 >= COVERED_MIN * seeds, "only {count} of {seeds} seeds saw {name}");
    }
}

fn fail(seed: u64, cause: &str) -> ! {
    panic!("seed {seed}: {cause}\nreplay it with its log:\n  make sim SEED={seed}\n")
}

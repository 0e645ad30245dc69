//! The simulator against itself: each fault of `mutants.rs` must be found within 200 seeds.
//!
//! `build.rs` copies the scheduler and its simulator and puts all faults into the copy, each behind
//! a switch. So the scheduler's own text stays free of them, one build serves them all, and the
//! scheduler is seen to compile with nothing but the protocol. Every fault is a test of its name,
//! which finds it by what it does to contents and deliveries: the scheduler's own `check` is off.
#![cfg(test)]

include!(concat!(env!("OUT_DIR"), "/generated.rs"));

use std::cell::Cell;

use sched::sim::swarm::run_caught;
use sched::sim::world::RunOptions;

const SEEDS: u64 = 200;

thread_local! {
    /// The fault that is on in this test, by its place in the table.
    static PLANTED: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Asked by the copy wherever it has a fault.
fn is_planted(mutant: usize) -> bool {
    PLANTED.get() == Some(mutant)
}

fn is_found(mutant: usize) {
    PLANTED.set(Some(mutant));
    let run = |seed| run_caught(seed, RunOptions::default()).err().map(|why| (seed, why));
    let (seed, why) = (0..SEEDS).find_map(run).expect("the fault survives all seeds");
    println!("seed {seed}: {why}");
}

#[test]
fn the_copy_without_a_fault_runs_clean() {
    for seed in 0..20 {
        assert_eq!(run_caught(seed, RunOptions::default()).err(), None, "seed {seed}");
    }
}

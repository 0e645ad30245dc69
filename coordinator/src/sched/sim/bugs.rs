//! The simulator against itself: each planted fault must be found within 200 seeds.
//!
//! By its effects on contents and deliveries alone: the scheduler's own `check` is off.

use super::swarm::run_caught;
use super::world::Options;
use crate::sched::planted::Bug;

const SEEDS: u64 = 200;

fn find(bug: Bug) {
    let options = Options { bug: Some(bug), log: false, check: false };
    let found = (0..SEEDS).find_map(|seed| run_caught(seed, options).err().map(|why| (seed, why)));
    let (seed, why) = found.unwrap_or_else(|| panic!("{bug:?} survives {SEEDS} seeds"));
    println!("{bug:?}: seed {seed}: {why}");
}

macro_rules! found {
    ($($name:ident: $bug:ident,)*) => {
        $(#[test]
        fn $name() {
            find(Bug::$bug);
        })*
    };
}

found! {
    block_freed_early: BlockFreedEarly,
    start_off_by_one: StartOffByOne,
    overrun_delivered: OverrunDelivered,
    result_taken_by_slot: ResultTakenBySlot,
    preempted_loses_token: PreemptedLosesToken,
    window_frees_too_much: WindowFreesTooMuch,
    cancel_frees_twice: CancelFreesTwice,
    same_rows_unchecked: SameRowsUnchecked,
    max_tokens_overrun: MaxTokensOverrun,
    chunk_skips_token: ChunkSkipsToken,
    hit_without_reference: HitWithoutReference,
    shared_within_plan: SharedWithinPlan,
    salt_ignored: SaltIgnored,
    parent_ignored: ParentIgnored,
    half_compared: HalfCompared,
    last_token_cached: LastTokenCached,
}

//! What a seed decides: a small random world, and which of the possible troubles happen in it.
//!
//! Each trouble is absent from many worlds, because one that always happens hides others.

use binfer_proto::{Epoch, ReplicaId};

use super::chain::Chain;
use super::prng::Prng;
use crate::sched::{KvGroupConfig, POLICY, Policy, SchedConfig};

#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) config: SchedConfig,
    pub(super) chain: Chain,
    /// End tokens are `0..ends`.
    pub(super) ends: u32,
    pub(super) policy: Policy,
    pub(super) pace: Pace,
    pub(super) prompt_max: usize,
    pub(super) answer_max: usize,
    /// Percent of prompts that are new texts. The others continue an old one.
    pub(super) new_text_percent: usize,
    /// Percent of requests that are one more choice of the request before.
    pub(super) choice_percent: usize,
    /// Percent of continued texts in which one token is another one.
    pub(super) changed_percent: usize,
    pub(super) tenants: usize,
    pub(super) salts: usize,
    pub(super) arrival_percent: usize,
    pub(super) burst_max: usize,
    pub(super) cancel_percent: usize,
    pub(super) stop_string_percent: usize,
    pub(super) deadline_percent: usize,
    pub(super) non_finite_percent: usize,
    pub(super) abort_permille: usize,
}

/// How far results lag behind plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Each result comes before the next plan.
    Lockstep,
    /// As many plans are in flight as may be, as in the serve loop.
    Overlap,
    /// Now one, now the other.
    Mixed,
}

impl Scenario {
    pub(super) fn new(prng: &mut Prng) -> Self {
        let block_tokens = prng.pick(&[1, 2, 4, 8, 16, 16, 32, 64]);
        let context_max = prng.between(4 + block_tokens, (8 * block_tokens).clamp(40, 320));
        // More requests at once than the blocks allow.
        let heavy = prng.chance(35);
        let slots_max = prng.between(if heavy { 3 } else { 1 }, 8);
        let mut config = SchedConfig {
            replica: ReplicaId(7),
            epoch: Epoch(3),
            slots_max: small(slots_max),
            tokens_per_step_max: small(slots_max + prng.pick(&[0, 1, 5, 16, 100])),
            context_max: small(context_max),
            queue_max: prng.pick(&[1, 3, 20]),
            queue_tokens_max: prng.pick(&[50, 10_000]),
            kv_groups: Vec::new(),
            prefix_cache: prng.chance(75),
        };
        let windows = windows(block_tokens, prng);
        let tight = heavy || prng.chance(50);
        for window in &windows {
            let block_tokens = if prng.chance(80) { block_tokens } else { prng.pick(&[1, 4, 16]) };
            let mut group = KvGroupConfig {
                block_tokens: small(block_tokens),
                blocks: 1,
                window: window.map(small),
            };
            let one = group.blocks_needed(context_max - 1);
            let blocks = if tight { one + prng.below(3) } else { one + prng.below(3 * one + 8) };
            // Now and then some requests can never run.
            let blocks = if prng.chance(10) { blocks.div_ceil(2) } else { blocks };
            group.blocks = small(blocks);
            config.kv_groups.push(group);
        }
        let mut some = |percent: usize, values: &[usize]| {
            if prng.chance(percent) { prng.pick(values) } else { 0 }
        };
        let ends = some(60, &[1, 3, 8]);
        let prompt_max = context_max / if heavy { 4 } else { some(100, &[1, 2, 4]) } + 1;
        let answer_max = if heavy { context_max } else { 1 + some(90, &[1, 5, 30]) };
        let preemptions_max = small(some(85, &[1, 1, 2]));
        let policy = if some(50, &[1]) == 0 {
            POLICY
        } else {
            let history_tokens_max = [POLICY.history_tokens_max, 20][some(20, &[1])];
            Policy { preemptions_max, spare_blocks: some(20, &[2]), history_tokens_max }
        };
        Self {
            config,
            policy,
            chain: Chain { windows, vocab: 97 },
            ends: small(ends),
            prompt_max,
            answer_max,
            new_text_percent: 100 - some(70, &[30, 60, 90]),
            choice_percent: some(40, &[20, 70]),
            changed_percent: some(50, &[20, 60]),
            tenants: 1 + some(40, &[1, 3]),
            salts: 1 + some(50, &[1, 2]),
            arrival_percent: if heavy { 60 } else { some(100, &[5, 20, 60]) },
            burst_max: 1 + some(50, &[2, 10]),
            cancel_percent: some(50, &[3, 20]),
            stop_string_percent: some(30, &[2, 10]),
            deadline_percent: some(20, &[20, 80]),
            non_finite_percent: some(10, &[1]),
            abort_permille: some(10, &[5]),
            pace: prng.pick(&[Pace::Lockstep, Pace::Overlap, Pace::Overlap, Pace::Mixed]),
        }
    }
}

/// The windows of the KV groups.
fn windows(block_tokens: usize, prng: &mut Prng) -> Vec<Option<usize>> {
    let mut windows = vec![None, Some(prng.pick(&[1, 2, block_tokens, 3 * block_tokens + 1]))];
    if prng.chance(25) {
        let window = prng.between(1, 2 * block_tokens);
        windows.push(prng.pick(&[None, Some(window)]));
    }
    if prng.chance(50) {
        windows.reverse();
    }
    windows
}

pub(super) fn small(value: usize) -> u32 {
    u32::try_from(value).unwrap()
}

//! Which experts a token is sent to, and with which weights.

use binfer_shard::spec::{ExpertGroups, GroupScore, RouterScores, Routing};

use super::math;
use super::simd::{Isa, IsaKernel};

/// An expert that a token chose.
#[derive(Clone, Copy, Default)]
pub(super) struct ExpertChoice {
    /// Number among the experts of all ranks.
    pub(super) expert: usize,
    pub(super) weight: f32,
}

/// Routes one token. Logits that are no numbers make weights that are none.
pub(super) struct RouteToken<'a> {
    pub(super) routing: &'a Routing,
    /// Added to scores for the choice alone.
    pub(super) correction: Option<&'a [f32]>,
    /// One for each expert; scores afterwards.
    pub(super) logits: &'a mut [f32],
    /// Room for as many numbers.
    pub(super) keys: &'a mut [f32],
    /// Experts in the order of choice.
    pub(super) choices: &'a mut [ExpertChoice],
}

impl IsaKernel for RouteToken<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        let Self { routing, correction, logits: scores, keys, choices } = self;
        match routing.scores {
            RouterScores::Softmax => softmax::<I>(scores),
            RouterScores::Sigmoid => {
                scores.iter_mut().for_each(|score| *score = math::sigmoid::<I>(*score));
            }
        }
        keys.copy_from_slice(scores);
        if let Some(correction) = correction {
            keys.iter_mut().zip(correction).for_each(|(key, added)| *key += added);
        }
        if let Some(expert_groups) = routing.expert_groups {
            drop_losing_groups(keys, expert_groups);
        }
        for choice in choices.iter_mut() {
            let expert = take_largest(keys);
            *choice = ExpertChoice { expert, weight: scores[expert] };
        }
        let sum: f32 = choices.iter().map(|choice| choice.weight).sum();
        // As transformers has it; it matters to sigmoids that are all zero.
        let divisor = if routing.normalize { sum + 1e-20 } else { 1.0 };
        for choice in choices {
            choice.weight = choice.weight / divisor * routing.scale;
        }
    }
}

#[inline(always)]
fn softmax<I: Isa>(x: &mut [f32]) {
    let largest = x.iter().copied().fold(f32::NEG_INFINITY, math::max);
    x.iter_mut().for_each(|x| *x = math::exp::<I>(*x - largest));
    let sum: f32 = x.iter().sum();
    x.iter_mut().for_each(|x| *x /= sum);
}

/// The place of the largest key, which is taken; of equal ones the first. NaN is chosen last.
fn take_largest(keys: &mut [f32]) -> usize {
    let mut best = 0;
    let mut largest = f32::NEG_INFINITY;
    for (place, key) in keys.iter().enumerate() {
        if *key > largest {
            (best, largest) = (place, *key);
        }
    }
    if largest == f32::NEG_INFINITY {
        // Nothing but NaN, losers and what was taken: any that was not taken.
        best = keys.iter().position(|key| key.is_nan()).unwrap_or(0);
    }
    keys[best] = f32::NEG_INFINITY;
    best
}

/// Makes keys of experts in losing groups so small that they are not chosen. Of groups with equal
/// scores the first are kept.
fn drop_losing_groups(keys: &mut [f32], expert_groups: ExpertGroups) {
    let members = keys.len() / expert_groups.count as usize;
    let score_of = |keys: &[f32]| {
        let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for key in keys {
            if *key > first {
                (first, second) = (*key, first);
            } else if *key > second {
                second = *key;
            }
        }
        match expert_groups.score {
            GroupScore::Max => first,
            GroupScore::TopTwoSum => first + second,
        }
    };
    let mut losers = expert_groups.count.saturating_sub(expert_groups.kept);
    while losers > 0 {
        // The last of the smallest that is still in.
        let mut worst: Option<(usize, f32)> = None;
        for (index, keys) in keys.chunks(members).enumerate() {
            let score = score_of(keys);
            let is_out = keys.iter().all(|key| *key == f32::NEG_INFINITY);
            if !is_out && worst.is_none_or(|(_, smallest)| score <= smallest) {
                worst = Some((index, score));
            }
        }
        let Some((index, _)) = worst else { return };
        keys[index * members..][..members].fill(f32::NEG_INFINITY);
        losers -= 1;
    }
}

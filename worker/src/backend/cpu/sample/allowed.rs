//! Which tokens of a row min-p, top-k and top-p leave, without sorting a vocabulary.

use std::cmp::Ordering;

use binfer_proto::{Sampling, Token};

use crate::backend::penalties::min_p_depth;

/// Memory for rows with filters or logprobs; grows to the vocabulary's size once.
#[derive(Debug, Default)]
pub struct SampleScratch {
    pub(super) kept: Vec<Candidate>,
    pub(super) best: Vec<f32>,
}

impl SampleScratch {
    /// Room for rows of `vocab` logits, so that nothing is allocated later.
    pub fn for_vocab(vocab: usize) -> Self {
        Self { kept: Vec::with_capacity(vocab), best: Vec::with_capacity(vocab) }
    }
}

/// A token that may still be sampled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) logit: f32,
    pub(super) token: Token,
    /// See [`TemperedSoftmax`]; known only for top-p.
    mass: f64,
}

impl Candidate {
    /// More likely first, then the lower id.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.token.cmp(&other.token))
    }
}

/// Whether a filter excludes some tokens.
pub(super) fn is_restricted(logits: &[f32], sampling: &Sampling) -> bool {
    restricts_k(logits, sampling) || sampling.top_p < 1.0 || sampling.min_p > 0.0
}

fn restricts_k(logits: &[f32], sampling: &Sampling) -> bool {
    sampling.top_k > 0 && (sampling.top_k as usize) < logits.len()
}

/// Leaves in `scratch.kept` the tokens that min-p, top-k and top-p leave of a row.
pub(super) fn keep(logits: &[f32], sampling: &Sampling, largest: f32, scratch: &mut SampleScratch) {
    let share =
        TemperedSoftmax { largest, inverse_temperature: 1.0 / f64::from(sampling.temperature) };
    let p = f64::from(sampling.top_p);
    let kept = &mut scratch.kept;
    let (by_k, by_share) = (restricts_k(logits, sampling), sampling.min_p > 0.0);
    if by_k || by_share {
        let mut least = f64::from(largest) - f64::from(min_p_depth(sampling));
        if by_k {
            let kth = kth_largest(logits, sampling.top_k as usize, &mut scratch.best);
            least = least.max(f64::from(kth));
        }
        fill(kept, logits, least);
        if p < 1.0 {
            let total = kept.iter().map(|c| share.mass(c.logit)).sum::<f64>();
            keep_top_p(kept, &share, p * total);
        }
    } else {
        let total = share.total(logits);
        // Together, tokens of less mass cannot make up 1 - p: the nucleus lies in the others.
        let negligible = (1.0 - p) * total / logits.len() as f64 * 0.999;
        fill(kept, logits, share.logit(negligible));
        keep_top_p(kept, &share, p * total);
    }
}

/// Tokens with at least the logit `least`. Adding 0 makes -0 equal to 0 in their order, too.
pub(super) fn fill(kept: &mut Vec<Candidate>, logits: &[f32], least: f64) {
    kept.clear();
    let all = (0..).zip(logits).filter(|&(_, &logit)| f64::from(logit) >= least);
    kept.extend(all.map(|(token, &logit)| Candidate { logit: logit + 0.0, token, mass: 0.0 }));
}

/// One pass with a rising threshold: no sort, and linear whatever the order of the logits.
pub(super) fn kth_largest(logits: &[f32], k: usize, best: &mut Vec<f32>) -> f32 {
    let descending = |a: &f32, b: &f32| b.total_cmp(a);
    let room = (2 * k).max(k + 256);
    best.clear();
    // Once k are known, only what is above the k-th of them can change the threshold.
    let mut threshold = f32::NEG_INFINITY;
    for &logit in logits {
        if logit > threshold {
            best.push(logit);
            if best.len() == room {
                threshold = *best.select_nth_unstable_by(k - 1, descending).1;
                best.truncate(k);
            }
        }
    }
    *best.select_nth_unstable_by(k - 1, descending).1
}

/// Masses, in units of the most likely token's: exp((logit - largest) / temperature).
pub(super) struct TemperedSoftmax {
    pub(super) largest: f32,
    pub(super) inverse_temperature: f64,
}

impl TemperedSoftmax {
    fn mass(&self, logit: f32) -> f64 {
        self.masses(&[logit])[0]
    }

    fn masses<const N: usize>(&self, logits: &[f32; N]) -> [f64; N] {
        exp(logits
            .map(|logit| (f64::from(logit) - f64::from(self.largest)) * self.inverse_temperature))
    }

    pub(super) fn total(&self, logits: &[f32]) -> f64 {
        let (chunks, rest) = logits.as_chunks::<16>();
        let mut lanes = [0.0; 16];
        for chunk in chunks {
            let masses = self.masses(chunk);
            lanes.iter_mut().zip(masses).for_each(|(sum, mass)| *sum += mass);
        }
        lanes.iter().sum::<f64>() + rest.iter().map(|&logit| self.mass(logit)).sum::<f64>()
    }

    /// The logit of that mass.
    fn logit(&self, mass: f64) -> f64 {
        f64::from(self.largest) + mass.ln() / self.inverse_temperature
    }
}

/// e^x for x <= 0, to 2e-16 of it; e^-700 stands for all that is smaller. Ours, because it
/// vectorises (a whole vocabulary goes through it) and no libm decides which token is sampled.
#[inline]
pub(super) fn exp<const N: usize>(x: [f64; N]) -> [f64; N] {
    // ln 2 in two parts: the first times an n of 11 bits is exact.
    const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    // 1.5 * 2^52: adding it rounds to a whole number and leaves that in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    // 1 / k!, from k = 12 down: |r| <= ln(2) / 2.
    const TAYLOR: [f64; 13] = taylor();
    let x = x.map(|x| if x > -700.0 { x } else { -700.0 });
    let shifted = x.map(|x| x * std::f64::consts::LOG2_E + ROUND);
    let r: [f64; N] = std::array::from_fn(|i| {
        let n = shifted[i] - ROUND;
        x[i] - n * LN_2_HIGH - n * LN_2_LOW
    });
    let mut sum = [0.0; N];
    for coefficient in TAYLOR {
        for (sum, r) in sum.iter_mut().zip(&r) {
            *sum = coefficient + *sum * r;
        }
    }
    let power = |x: f64| f64::from_bits((x.to_bits() << 52).wrapping_add(1.0_f64.to_bits()));
    std::array::from_fn(|i| sum[i] * power(shifted[i]))
}

const fn taylor() -> [f64; 13] {
    let mut coefficients = [1.0; 13];
    let mut k = 1;
    while k <= 12 {
        coefficients[12 - k] = coefficients[13 - k] / k as f64;
        k += 1;
    }
    coefficients
}

/// Cuts `kept` to its most likely tokens that reach `target` together.
fn keep_top_p(kept: &mut Vec<Candidate>, share: &TemperedSoftmax, target: f64) {
    kept.iter_mut().for_each(|c| c.mass = share.mass(c.logit));
    // The border lies in lo..hi; all before lo are in, with `mass` together.
    let (mut lo, mut hi, mut mass) = (0, kept.len(), 0.0);
    while hi - lo > 32 {
        let middle = (hi - lo) / 2;
        let (upper, _, _) = kept[lo..hi].select_nth_unstable_by(middle, Candidate::order);
        let reached = mass + upper.iter().map(|c| c.mass).sum::<f64>();
        if reached >= target {
            hi = lo + middle;
        } else {
            mass = reached;
            lo += middle;
        }
    }
    kept[lo..hi].sort_unstable_by(Candidate::order);
    for (i, c) in kept.iter().enumerate().take(hi).skip(lo) {
        mass += c.mass;
        if mass >= target {
            hi = i + 1;
            break;
        }
    }
    kept.truncate(hi);
}

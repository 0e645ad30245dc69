//! Drawing a token from a row of logits.
//!
//! A token is the arg-max of `logit / temperature + noise` over the allowed tokens, the lowest id
//! among equals; at temperature 0 it is the arg-max of the logits. The noise is Gumbel-distributed,
//! so tokens come with the probabilities of the softmax, and it is a pure function of (seed, choice,
//! position, token id): the same token on any rank, at any number of ranks, and when a request is
//! computed again. That makes [`gumbel`] part of the format: a device must do the same, and may use
//! less precision only to find the candidates for the maximum, never to decide between them.
//!
//! What is allowed: temperature first; then top-k keeps the k best and all that equal the k-th;
//! then top-p keeps the fewest of the most likely tokens whose share of what top-k left reaches p,
//! the lower id before its equal, and always the first.
//!
//! Deliberately absent: penalties and min-p (plans with them are refused), logprobs, randomness
//! with a state.

#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use binfer_proto::{Sampling, Token};

use crate::backend::Sampled;

/// How to draw one token.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    /// Temperature, top-k, top-p.
    pub sampling: &'a Sampling,
    /// Seed of the request.
    pub seed: u64,
    /// Which of the request's choices.
    pub choice: u32,
    /// Position that the token will have in its sequence.
    pub position: u32,
}

/// Memory for rows with top-k or top-p; grows to the vocabulary's size once.
#[derive(Debug, Default)]
pub struct Scratch {
    kept: Vec<Candidate>,
    best: Vec<f32>,
}

impl Scratch {
    /// Enough for rows of `vocab` logits, so that no draw allocates.
    pub fn for_vocab(vocab: usize) -> Self {
        Self { kept: Vec::with_capacity(vocab), best: Vec::with_capacity(vocab) }
    }
}

/// A token that may still be drawn.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    logit: f32,
    token: Token,
    /// exp((logit - largest) / temperature).
    mass: f64,
}

impl Candidate {
    /// More likely first, then the lower id.
    fn order(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.token.cmp(&other.token))
    }
}

/// Draws from `logits`, one per token of the vocabulary. A row with a NaN or an infinity draws
/// nothing and says so.
pub fn draw(logits: &[f32], draw: &Draw<'_>, scratch: &mut Scratch) -> Sampled {
    let Some(top) = top(logits) else { return Sampled { token: 0, finite: false } };
    let sampling = draw.sampling;
    if sampling.temperature <= 0.0 {
        return Sampled { token: top.token, finite: true };
    }
    let mut race = Race::new(draw, top);
    let restricted_k = sampling.top_k > 0 && (sampling.top_k as usize) < logits.len();
    if !restricted_k && sampling.top_p >= 1.0 {
        (0..).zip(logits).for_each(|(token, &logit)| race.enter(token, logit));
        return Sampled { token: race.winner, finite: true };
    }
    if restricted_k {
        keep_top_k(logits, sampling.top_k as usize, scratch);
    } else {
        fill(&mut scratch.kept, logits, f32::MIN);
    }
    if sampling.top_p < 1.0 {
        let inverse = 1.0 / f64::from(sampling.temperature);
        keep_top_p(&mut scratch.kept, f64::from(sampling.top_p), top.logit, inverse);
    }
    scratch.kept.iter().for_each(|c| race.enter(c.token, c.logit));
    Sampled { token: race.winner, finite: true }
}

/// The largest logit and the lowest token that has it; nothing for a row that is not all numbers.
fn top(logits: &[f32]) -> Option<Top> {
    const LANES: usize = 16;
    // An exponent of all ones is an infinity or a NaN. Lanes, so that the compiler vectorises.
    let mut bad = [false; LANES];
    let mut largest = [f32::MIN; LANES];
    let mut scan = |chunk: &[f32]| {
        for ((&x, bad), largest) in chunk.iter().zip(&mut bad).zip(&mut largest) {
            *bad |= !x.is_finite();
            *largest = if x > *largest { x } else { *largest };
        }
    };
    let chunks = logits.chunks_exact(LANES);
    scan(chunks.remainder());
    chunks.for_each(scan);
    let logit = largest.iter().fold(f32::MIN, |a, &b| a.max(b));
    if logits.is_empty() || bad.contains(&true) {
        return None;
    }
    let token = (0..).zip(logits).find_map(|(token, &x)| (x == logit).then_some(token))?;
    Some(Top { token, logit })
}

#[derive(Clone, Copy, Debug)]
struct Top {
    token: Token,
    logit: f32,
}

/// The noisy arg-max. Tokens may enter in any order, and more than once.
struct Race {
    stream: u64,
    inverse_temperature: f64,
    winner: Token,
    score: f64,
}

impl Race {
    /// The most likely token runs first: it is always allowed, and most others then lose to it
    /// without a logarithm.
    fn new(draw: &Draw<'_>, top: Top) -> Self {
        let stream = stream(draw.seed, draw.choice, draw.position);
        let inverse_temperature = 1.0 / f64::from(draw.sampling.temperature);
        let score =
            f64::from(top.logit) * inverse_temperature + gumbel(noise_bits(stream, top.token));
        Self { stream, inverse_temperature, winner: top.token, score }
    }

    fn enter(&mut self, token: Token, logit: f32) {
        let base = f64::from(logit) * self.inverse_temperature;
        let needed = self.score - base;
        if needed > NOISE_MAX {
            return;
        }
        let bits = noise_bits(self.stream, token);
        if needed > noise_bound(bits) {
            return;
        }
        let score = base + gumbel(bits);
        if score > self.score || (score == self.score && token < self.winner) {
            self.score = score;
            self.winner = token;
        }
    }
}

/// A little more than the largest noise, -ln(-ln(1 - 2^-33)) = 22.87.
const NOISE_MAX: f64 = 23.0;

/// One step of SplitMix64: the counter's increment and the mixing.
fn split_mix(counter: u64) -> u64 {
    let z = counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Start of the random numbers of one drawn token.
fn stream(seed: u64, choice: u32, position: u32) -> u64 {
    split_mix(split_mix(seed) ^ (u64::from(choice) << 32 | u64::from(position)))
}

/// 32 random bits for a token: the upper half of output number `token` of a SplitMix64 generator
/// with state `stream`.
fn noise_bits(stream: u64, token: Token) -> u32 {
    let counter = u64::from(token).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (split_mix(stream.wrapping_add(counter)) >> 32) as u32
}

/// Gumbel noise: -ln(-ln(u)), where u = (bits + 1/2) / 2^32 is never 0 nor 1.
fn gumbel(bits: u32) -> f64 {
    let u = (f64::from(bits) + 0.5) / 4_294_967_296.0;
    -(-u.ln()).ln()
}

/// Not less than `gumbel(bits)`, and cheap. -ln(u) >= 1 - u, so the noise is at most -ln(1 - u);
/// 1 - u > 2^-(z + 1) where its fraction begins with z zero bits. The last term covers rounding.
fn noise_bound(bits: u32) -> f64 {
    f64::from((!bits).leading_zeros() + 1) * std::f64::consts::LN_2 + 1e-3
}

/// Tokens with at least the logit `least`. Adding 0 makes -0 equal to 0 in their order, too.
fn fill(kept: &mut Vec<Candidate>, logits: &[f32], least: f32) {
    kept.clear();
    let all = (0..).zip(logits).filter(|&(_, &logit)| logit >= least);
    kept.extend(all.map(|(token, &logit)| Candidate { logit: logit + 0.0, token, mass: 0.0 }));
}

/// Keeps the k best and what equals the k-th. One pass with a rising threshold, one to collect:
/// no sort, and linear whatever the order of the logits.
fn keep_top_k(logits: &[f32], k: usize, scratch: &mut Scratch) {
    let best = &mut scratch.best;
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
    let threshold = *best.select_nth_unstable_by(k - 1, descending).1;
    fill(&mut scratch.kept, logits, threshold);
}

/// Cuts `kept` to the nucleus.
fn keep_top_p(kept: &mut Vec<Candidate>, p: f64, largest: f32, inverse_temperature: f64) {
    let mut total = 0.0;
    for c in kept.iter_mut() {
        c.mass = ((f64::from(c.logit) - f64::from(largest)) * inverse_temperature).exp();
        total += c.mass;
    }
    // Together, tokens below this mass cannot make up 1 - p: the nucleus lies in the others.
    let negligible = (1.0 - p) * total / kept.len() as f64 * 0.999;
    kept.retain(|c| c.mass >= negligible);
    let target = p * total;
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

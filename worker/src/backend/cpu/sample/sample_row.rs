//! One token from a row of logits: the noisy arg-max.

use binfer_proto::{Sampling, Token};

use super::allowed::{self, SampleScratch};
use crate::backend::Sampled;

/// How to sample one token.
#[derive(Clone, Copy, Debug)]
pub struct SampleRowParams<'a> {
    /// Temperature, min-p, top-k, top-p; penalties are in the logits already.
    pub sampling: &'a Sampling,
    /// Seed of the request.
    pub seed: u64,
    /// Which of the request's choices.
    pub choice: u32,
    /// Position that the token will have in its sequence.
    pub position: u32,
    /// Token ids of the logits, rising; `None` where logits are of the whole vocabulary.
    pub tokens: Option<&'a [Token]>,
}

impl SampleRowParams<'_> {
    /// The token of a logit.
    fn token(&self, place: Token) -> Token {
        self.tokens.map_or(place, |tokens| tokens[place as usize])
    }
}

/// Samples from `logits`, one per token of the vocabulary or of [`SampleRowParams::tokens`]. A row
/// with a NaN or an infinity gives no token: its result is not `finite`.
pub fn sample_row(
    logits: &[f32],
    params: &SampleRowParams<'_>,
    scratch: &mut SampleScratch,
) -> Sampled {
    let Some(top) = top(logits) else { return Sampled { token: 0, finite: false } };
    let sampling = params.sampling;
    // Filters are `allowed`'s, and penalties are in the logits already.
    let Sampling {
        temperature,
        top_k: _,
        top_p: _,
        min_p: _,
        repetition_penalty: _,
        presence_penalty: _,
        frequency_penalty: _,
    } = *sampling;
    if temperature <= 0.0 {
        return Sampled { token: params.token(top.place), finite: true };
    }
    let mut gumbel_max = GumbelMax::new(params, top);
    if allowed::is_restricted(logits, sampling) {
        allowed::keep(logits, sampling, top.logit, scratch);
        scratch.kept.iter().for_each(|c| gumbel_max.consider(c.token, c.logit));
    } else {
        (0..).zip(logits).for_each(|(place, &logit)| gumbel_max.consider(place, logit));
    }
    Sampled { token: params.token(gumbel_max.winner), finite: true }
}

/// The largest logit and the first place that has it; nothing for a row that is not all numbers.
pub(super) fn top(logits: &[f32]) -> Option<Top> {
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
    let place = (0..).zip(logits).find_map(|(place, &x)| (x == logit).then_some(place))?;
    Some(Top { place, logit })
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Top {
    pub(super) place: Token,
    pub(super) logit: f32,
}

/// The noisy arg-max. Logits, by their places, may enter in any order, and more than once. Places
/// rise as their tokens do; the noise is the token's.
pub(super) struct GumbelMax<'a> {
    params: &'a SampleRowParams<'a>,
    pub(super) stream: u64,
    inverse_temperature: f64,
    pub(super) winner: Token,
    pub(super) score: f64,
}

impl<'a> GumbelMax<'a> {
    /// The most likely token runs first: it is always allowed, and most others then lose to it
    /// without a logarithm.
    pub(super) fn new(params: &'a SampleRowParams<'a>, top: Top) -> Self {
        let stream = stream(params.seed, params.choice, params.position);
        let inverse_temperature = 1.0 / f64::from(params.sampling.temperature);
        let noise = gumbel(noise_bits(stream, params.token(top.place)));
        let score = f64::from(top.logit) * inverse_temperature + noise;
        Self { params, stream, inverse_temperature, winner: top.place, score }
    }

    pub(super) fn consider(&mut self, place: Token, logit: f32) {
        let base = f64::from(logit) * self.inverse_temperature;
        let needed = self.score - base;
        if needed > NOISE_MAX {
            return;
        }
        let bits = noise_bits(self.stream, self.params.token(place));
        if needed > noise_bound(bits) {
            return;
        }
        let score = base + gumbel(bits);
        if score > self.score || (score == self.score && place < self.winner) {
            self.score = score;
            self.winner = place;
        }
    }
}

/// A little more than the largest noise, -ln(-ln(1 - 2^-33)) = 22.87.
pub(super) const NOISE_MAX: f64 = 23.0;

/// One step of SplitMix64: the counter's increment and the mixing.
pub(super) fn split_mix(counter: u64) -> u64 {
    let z = counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Start of the random numbers of one sampled token.
pub(super) fn stream(seed: u64, choice: u32, position: u32) -> u64 {
    split_mix(split_mix(seed) ^ (u64::from(choice) << 32 | u64::from(position)))
}

/// 32 random bits for a token: the upper half of output number `token` of a SplitMix64 generator
/// with state `stream`.
pub(super) fn noise_bits(stream: u64, token: Token) -> u32 {
    let counter = u64::from(token).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (split_mix(stream.wrapping_add(counter)) >> 32) as u32
}

/// Gumbel noise: -ln(-ln(u)), where u = (bits + 1/2) / 2^32 is never 0 nor 1.
pub(super) fn gumbel(bits: u32) -> f64 {
    let u = (f64::from(bits) + 0.5) / 4_294_967_296.0;
    -(-u.ln()).ln()
}

/// Not less than `gumbel(bits)`, and cheap. -ln(u) >= 1 - u, so the noise is at most -ln(1 - u);
/// 1 - u > 2^-(z + 1) where its fraction begins with z zero bits. The last term covers rounding.
pub(super) fn noise_bound(bits: u32) -> f64 {
    f64::from((!bits).leading_zeros() + 1) * std::f64::consts::LN_2 + 1e-3
}

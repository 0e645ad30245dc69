//! Against a naive oracle that sorts, in f64; the frequencies against the softmax.

use binfer_proto::{Bias, Sampling, SlotId, Token};

use super::allowed::SampleScratch;
use super::allowed::exp;
use super::logprobs::logprobs;
use super::sample_row::{
    GumbelMax, NOISE_MAX, SampleRowParams, gumbel, noise_bits, noise_bound, sample_row, split_mix,
    stream,
};
use super::token_counts::TokenCounts;
use crate::backend::Sampled;
use crate::batch::{BatchOutput, SlotTokens};

pub(super) fn sampling(temperature: f32, top_k: u32, top_p: f32) -> Sampling {
    Sampling { temperature, top_k, top_p, ..Sampling::GREEDY }
}

fn at(sampling: &Sampling, seed: u64, position: u32) -> SampleRowParams<'_> {
    SampleRowParams { sampling, seed, choice: 0, position, tokens: None }
}

/// Roughly normal logits; `step` rounds them, for ties.
pub(super) fn logits(seed: u64, len: usize, spread: f32, step: Option<f32>) -> Vec<f32> {
    let bits = |i: usize, part: u64| split_mix(seed ^ (i as u64) << 20 ^ part << 50);
    let uniform = |i: usize, part: u64| (bits(i, part) >> 40) as f32 / (1 << 24) as f32;
    let normal = |i| (0..12).map(|part| uniform(i, part)).sum::<f32>() - 6.0;
    let round = |x: f32| step.map_or(x, |step| (x / step).round() * step);
    (0..len).map(|i| round(normal(i) * spread)).collect()
}

/// Tokens that may be sampled, by the definition, with sorts.
fn allowed(logits: &[f32], sampling: &Sampling) -> Vec<Token> {
    allowed_of((0..).take(logits.len()).collect(), logits, sampling)
}

/// The same where there are no others than `tokens`.
fn allowed_of(mut tokens: Vec<Token>, logits: &[f32], sampling: &Sampling) -> Vec<Token> {
    // -0 equals 0.
    let logit = |token: Token| f64::from(logits[token as usize]) + 0.0;
    tokens.sort_by(|&a, &b| logit(b).total_cmp(&logit(a)));
    let mass = |token, best| ((logit(token) - logit(best)) / f64::from(sampling.temperature)).exp();
    let best = tokens[0];
    if sampling.top_k > 0 && (sampling.top_k as usize) < tokens.len() {
        let least = logit(tokens[sampling.top_k as usize - 1]);
        tokens.retain(|&token| logit(token) >= least);
    }
    tokens.retain(|&token| mass(token, best) >= f64::from(sampling.min_p));
    if sampling.top_p < 1.0 {
        let total: f64 = tokens.iter().map(|&token| mass(token, best)).sum();
        let mut reached = 0.0;
        let enough = |token: &Token| {
            reached += mass(*token, best);
            reached >= f64::from(sampling.top_p) * total
        };
        let last = tokens.iter().position(enough).unwrap_or(tokens.len() - 1);
        tokens.truncate(last + 1);
    }
    tokens.sort_unstable();
    tokens
}

pub(super) fn oracle(logits: &[f32], params: &SampleRowParams<'_>) -> Token {
    let tokens =
        params.tokens.map_or_else(|| (0..).take(logits.len()).collect(), <[Token]>::to_vec);
    let stream = stream(params.seed, params.choice, params.position);
    let score = |token: Token| {
        let logit = f64::from(logits[token as usize]);
        logit * (1.0 / f64::from(params.sampling.temperature)) + gumbel(noise_bits(stream, token))
    };
    let better = |best: Token, next: Token| if score(next) > score(best) { next } else { best };
    let allowed = allowed_of(tokens, logits, params.sampling);
    allowed.into_iter().reduce(better).unwrap()
}

#[test]
fn the_noise_is_the_format() {
    // SplitMix64 with state 1234567, as its reference implementation prints it.
    assert_eq!(split_mix(1_234_567), 6_457_827_717_110_365_317);
    assert_eq!(u64::from(noise_bits(1_234_567, 1)), 3_203_168_211_198_807_973 >> 32);
    assert_eq!(u64::from(noise_bits(1_234_567, 4)), 16_408_922_859_458_223_821 >> 32);
    // Whoever changes these changes what every seed samples, on every device.
    assert_eq!(stream(0, 0, 0), split_mix(split_mix(0)));
    assert_eq!(stream(42, 1, 17), split_mix(split_mix(42) ^ 0x1_0000_0011));
    assert!((gumbel(1 << 31) - 0.366_512_921).abs() < 1e-8);
    assert!((gumbel(0) + 3.129_7).abs() < 1e-3, "{}", gumbel(0));
    assert!((gumbel(u32::MAX) - 22.874).abs() < 1e-3);
}

#[test]
fn the_bound_on_the_noise_holds() {
    let edges = (0..32).flat_map(|i| [1_u32 << i, (1 << i) - 1, !(1 << i), !((1 << i) - 1)]);
    let random = (0..100_000).map(|i| (split_mix(i) >> 32) as u32);
    for bits in edges.chain(random) {
        let (noise, bound) = (gumbel(bits), noise_bound(bits));
        assert!(noise < bound && noise < NOISE_MAX, "{bits:#x}: {noise} {bound}");
    }
}

#[test]
fn our_exponential_is_one() {
    for i in 0..200_000 {
        let x = -f64::from(i) * f64::from(i) * 1.7e-8;
        let error = (exp([x])[0] / x.exp() - 1.0).abs();
        assert!(error < 1e-15, "{x}: {error:e}");
    }
    assert_eq!(exp([0.0, -0.0]), [1.0, 1.0]);
    assert!(exp([-1e300])[0] < 1e-303);
}

#[test]
fn draws_equal_the_oracle() {
    let mut scratch = SampleScratch::default();
    for case in 0..1500_u64 {
        let pick = |n: u64| (split_mix(case * 31 + n) >> 33) as u32;
        let len = [1, 2, 15, 16, 17, 100, 1000, 3000][pick(0) as usize % 8];
        let step = [None, Some(0.5), Some(0.03)][pick(1) as usize % 3];
        let row = logits(case, len, [0.2, 1.5, 4.0][pick(2) as usize % 3], step);
        let temperature = [0.1, 0.7, 1.0, 1.5, 5.0][pick(3) as usize % 5];
        let top_k = [0, 0, 1, 5, 40, 700][pick(4) as usize % 6];
        let top_p = [1.0, 0.0, 0.3, 0.9, 0.951, 0.9999][pick(5) as usize % 6];
        let min_p = [0.0, 0.0, 0.001, 0.2, 1.0][pick(7) as usize % 5];
        let sampling = Sampling { min_p, ..sampling(temperature, top_k, top_p) };
        let params = at(&sampling, case, pick(6));
        let sampled = sample_row(&row, &params, &mut scratch);
        let expected = Sampled { token: oracle(&row, &params), finite: true };
        assert_eq!(sampled, expected, "case {case}: {len} {sampling:?}");
        if top_p < 1.0 || min_p > 0.0 || (top_k > 0 && (top_k as usize) < len) {
            let mut kept: Vec<Token> = scratch.kept.iter().map(|c| c.token).collect();
            kept.sort_unstable();
            assert_eq!(kept, allowed(&row, &sampling), "case {case}: {len} {sampling:?}");
        }
    }
}

/// Pearson's statistic of 20,000 samples against the softmax over the allowed tokens.
fn chi_square(row: &[f32], sampling: &Sampling) -> f64 {
    let samples = 20_000;
    let mut counts = vec![0_u32; row.len()];
    let mut scratch = SampleScratch::for_vocab(row.len());
    for position in 0..samples {
        counts[sample_row(row, &at(sampling, 7, position), &mut scratch).token as usize] += 1;
    }
    let allowed = allowed(row, sampling);
    let mass = |t: &Token| (f64::from(row[*t as usize]) / f64::from(sampling.temperature)).exp();
    let total: f64 = allowed.iter().map(mass).sum();
    assert_eq!(allowed.iter().map(|&t| counts[t as usize]).sum::<u32>(), samples);
    let terms = allowed.iter().map(|t| {
        let expected = mass(t) / total * f64::from(samples);
        (f64::from(counts[*t as usize]) - expected).powi(2) / expected
    });
    terms.sum()
}

#[test]
fn tokens_come_as_often_as_the_softmax_says() {
    let row = [1.0, 0.0, 2.0, -1.0, 0.5, 0.5, 1.5, -0.5, 0.0, 2.0];
    // 99.99 % of true samples lie below 33.7 (9 degrees of freedom), 23.5 (4), 21.1 (3).
    assert!(chi_square(&row, &sampling(1.0, 0, 1.0)) < 33.7);
    assert!(chi_square(&row, &sampling(0.6, 0, 1.0)) < 33.7);
    assert!(chi_square(&row, &sampling(3.0, 0, 1.0)) < 33.7);
    assert!(chi_square(&row, &sampling(1.3, 4, 1.0)) < 21.1);
    assert!(chi_square(&row, &sampling(1.0, 0, 0.7)) < 21.1);
    assert!(chi_square(&row, &sampling(1.0, 5, 0.99)) < 23.5);
}

#[test]
fn seed_choice_position_and_nothing_else_decide() {
    let row = logits(3, 500, 0.3, None);
    let sampling = sampling(1.0, 0, 1.0);
    let token = |seed, choice, position, scratch: &mut SampleScratch| {
        let params = SampleRowParams { sampling: &sampling, seed, choice, position, tokens: None };
        sample_row(&row, &params, scratch).token
    };
    let mut used = SampleScratch::for_vocab(500);
    let first = token(1, 2, 3, &mut used);
    (0..50).for_each(|position| _ = token(9, 0, position, &mut used));
    assert_eq!(token(1, 2, 3, &mut used), first);
    assert_eq!(token(1, 2, 3, &mut SampleScratch::default()), first);
    // Of 50 others almost all differ: the tokens are nearly equally likely.
    let same = |vary: fn(u32) -> (u64, u32, u32)| {
        let samples = (10..60).map(vary);
        samples.filter(|&(s, c, p)| token(s, c, p, &mut SampleScratch::default()) == first).count()
    };
    assert!(same(|i| (u64::from(i), 2, 3)) < 4);
    assert!(same(|i| (1, i, 3)) < 4);
    assert!(same(|i| (1, 2, i)) < 4);
    // Choice and position are not interchangeable.
    let swapped = (0..50).filter(|&i| {
        token(1, i, i + 1, &mut used) == token(1, i + 1, i, &mut SampleScratch::default())
    });
    assert!(swapped.count() < 4);
}

#[test]
fn the_lowest_id_wins_among_equals() {
    let mut row = vec![0.0; 40];
    (row[33], row[7], row[20]) = (2.5, 2.5, 2.5);
    let mut scratch = SampleScratch::default();
    assert_eq!(sample_row(&row, &at(&Sampling::GREEDY, 1, 1), &mut scratch).token, 7);
    // -0 equals 0.
    assert_eq!(sample_row(&[-1.0, -0.0, 0.0], &at(&Sampling::GREEDY, 1, 1), &mut scratch).token, 1);
    // All that equal the k-th stay; the first of equals makes a nucleus.
    for position in 0..100 {
        let sampled = sample_row(&row, &at(&sampling(0.1, 1, 1.0), 1, position), &mut scratch);
        assert!([33, 7, 20].contains(&sampled.token));
        assert_eq!(scratch.kept.len(), 3);
        let sampled = sample_row(&row, &at(&sampling(0.1, 0, 0.0), 1, position), &mut scratch);
        assert_eq!(sampled.token, 7);
        let sampled =
            sample_row(&[-0.0, 0.0, -1.0], &at(&sampling(1.0, 2, 0.3), 1, position), &mut scratch);
        assert_eq!(sampled.token, 0);
    }
}

#[test]
fn the_lowest_id_wins_among_equal_scores() {
    let row = [0.5; 9];
    let sampling = sampling(1.0, 0, 1.0);
    let params = at(&sampling, 1, 1);
    let mut gumbel_max = GumbelMax::new(&params, super::sample_row::top(&row).unwrap());
    // Scores as equal as they never are by chance.
    gumbel_max.score = 0.5 + gumbel(noise_bits(gumbel_max.stream, 4));
    gumbel_max.winner = 5;
    gumbel_max.consider(4, 0.5);
    assert_eq!(gumbel_max.winner, 4);
    gumbel_max.winner = 3;
    gumbel_max.consider(4, 0.5);
    assert_eq!(gumbel_max.winner, 3);
}

#[test]
fn a_row_with_anything_but_numbers_draws_nothing() {
    let mut scratch = SampleScratch::default();
    for len in [1, 16, 37] {
        for at_index in 0..len {
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut row = vec![1.0; len];
                row[at_index] = bad;
                for sampling in [Sampling::GREEDY, sampling(1.0, 5, 0.9), sampling(1.0, 0, 1.0)] {
                    let sampled = sample_row(&row, &at(&sampling, 0, 0), &mut scratch);
                    assert_eq!(sampled, Sampled { token: 0, finite: false });
                }
            }
        }
    }
    assert!(!sample_row(&[], &at(&Sampling::GREEDY, 0, 0), &mut scratch).finite);
    // Extremes that are numbers are fine.
    let row = [f32::MIN, f32::MAX, -f32::MIN_POSITIVE];
    for temperature in [0.0, f32::MIN_POSITIVE, 1.0, f32::MAX] {
        let sampling = sampling(temperature, 2, 0.5);
        assert_eq!(sample_row(&row, &at(&sampling, 0, 0), &mut scratch).token, 1);
    }
}

#[test]
fn a_warm_scratch_does_not_grow() {
    let row = logits(5, 4000, 1.0, None);
    let mut scratch = SampleScratch::for_vocab(row.len());
    let capacity = (scratch.kept.capacity(), scratch.best.capacity());
    for (top_k, top_p) in [(1, 1.0), (0, 0.9999), (3999, 0.5), (2500, 1.0), (50, 0.9)] {
        sample_row(&row, &at(&sampling(1.0, top_k, top_p), 1, 1), &mut scratch);
    }
    // Ascending: every logit passes the threshold.
    let row: Vec<f32> = (0..4000_u16).map(f32::from).collect();
    sample_row(&row, &at(&sampling(1.0, 50, 0.9), 1, 1), &mut scratch);
    assert_eq!((scratch.kept.capacity(), scratch.best.capacity()), capacity);
}

#[test]
fn logprobs_are_those_of_the_raw_softmax() {
    let mut scratch = SampleScratch::default();
    for (case, len) in (0..).zip([1, 2, 20, 21, 1000, 5000]) {
        for step in [None, Some(0.5)] {
            let row = logits(case, len, 4.0, step);
            let total: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            let logprob = |token: Token| f64::from(row[token as usize]) - total.ln();
            let mut order: Vec<Token> = (0..).take(len).collect();
            order.sort_by(|&a, &b| logprob(b).total_cmp(&logprob(a)));
            for tops in [0, 1, 5, 20] {
                let (mut found, sampled) = (Vec::new(), Token::try_from(len / 2).unwrap());
                logprobs(&row, sampled, tops, &mut scratch, &mut found);
                let wanted: Vec<Token> = order.iter().copied().take(tops).collect();
                let tokens: Vec<Token> = found.iter().map(|one| one.token).collect();
                assert_eq!(tokens, [&[sampled], &wanted[..]].concat(), "{len} {tops}");
                for one in found {
                    let error = (f64::from(one.logprob) - logprob(one.token)).abs();
                    assert!(error < 1e-5, "{len}: {one:?}");
                }
            }
        }
    }
    // Numbers that are far apart stay numbers.
    let mut found = Vec::new();
    logprobs(&[f32::MIN, f32::MAX], 0, 1, &mut scratch, &mut found);
    assert_eq!((found[0].logprob, found[1].logprob), (f32::MIN, 0.0));
}

#[test]
fn a_slot_remembers_what_it_drew_until_it_begins_anew() {
    let sampling = Sampling { frequency_penalty: 1.0, ..Sampling::GREEDY };
    let biases = vec![Bias { token: 2, value: 2.5 }];
    let output = |slot, sampling, biases| BatchOutput {
        token: 0,
        slot: SlotId(slot),
        sampling,
        seed: 0,
        choice: 0,
        position: 0,
        biases,
        logprobs: 0,
    };
    let (mut counts, mut room) = (TokenCounts::new(3, 4), Vec::new());
    let opened = SlotTokens { slot: SlotId(1), prompt_len: 1, history: vec![3, 3], biases };
    counts.open(&opened);
    let row = [1.0, 1.0, 1.0, 1.0];
    let sampled_by = |counts: &TokenCounts, room: &mut Vec<f32>| {
        counts.adjusted(&output(1, sampling, 1), &row, room).to_vec()
    };
    assert_eq!(sampled_by(&counts, &mut room), [1.0, 1.0, 3.5, 0.0]);
    counts.add_sampled(&output(1, sampling, 1), 2);
    counts.add_sampled(&output(1, sampling, 1), 2);
    // Other slots are others, and one without penalties costs and counts nothing.
    counts.add_sampled(&output(2, sampling, 0), 2);
    counts.add_sampled(&output(1, Sampling::GREEDY, 0), 2);
    assert_eq!(sampled_by(&counts, &mut room), [1.0, 1.0, 1.5, 0.0]);
    assert_eq!(counts.adjusted(&output(0, sampling, 0), &row, &mut room), row);
    counts.open(&opened);
    assert_eq!(sampled_by(&counts, &mut room), [1.0, 1.0, 3.5, 0.0]);
}

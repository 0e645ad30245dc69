//! One output from its logits to its token: penalties, the token mask, sampling, logprobs.

use binfer_proto::{Logprob, Mask, Token};

use super::allowed::SampleScratch;
use super::logprobs::logprobs;
use super::sample_row::{SampleRowParams, sample_row};
use super::token_counts::TokenCounts;
use crate::backend::Sampled;
use crate::batch::{BatchOutput, SlotTokens};

/// Logits that a token is sampled from.
#[derive(Clone, Copy, Debug)]
pub struct LogitsRow<'a> {
    /// How to sample it.
    pub output: &'a BatchOutput,
    /// Raw, one per token of the vocabulary.
    pub logits: &'a [f32],
    /// Which tokens may be sampled; all of them where absent.
    pub mask: Option<&'a Mask>,
}

/// Samples for all slots of a backend.
#[derive(Debug, Default)]
pub struct Sampler {
    token_counts: TokenCounts,
    scratch: SampleScratch,
    /// Logits of a row, with penalties and biases.
    adjusted: Vec<f32>,
    allowed: Allowed,
}

impl Sampler {
    /// A sampler for `slots` slots and a vocabulary. Nothing is allocated later, except for masked
    /// rows until one allowed as many tokens.
    pub fn new(slots: usize, vocab: usize) -> Self {
        Self {
            token_counts: TokenCounts::new(slots, vocab),
            scratch: SampleScratch::for_vocab(vocab),
            adjusted: Vec::with_capacity(vocab),
            allowed: Allowed::default(),
        }
    }

    /// Opens a slot whose logits are changed by penalties or biases.
    pub fn open(&mut self, tokens: &SlotTokens) {
        self.token_counts.open(tokens);
    }

    /// Samples from a row, counts the token where a penalty needs it, and appends the logprobs that
    /// are wanted to `found`; none where the logits are not finite.
    pub fn sample(&mut self, row: LogitsRow<'_>, found: &mut Vec<Logprob>) -> Sampled {
        let LogitsRow { output, logits, mask } = row;
        let BatchOutput { sampling, seed, choice, position, .. } = output;
        let (seed, choice, position) = (*seed, *choice, *position);
        let adjusted = self.token_counts.adjusted(output, logits, &mut self.adjusted);
        let scratch = &mut self.scratch;
        let sampled = match mask {
            None => sample_row(
                adjusted,
                &SampleRowParams { sampling, seed, choice, position, tokens: None },
                scratch,
            ),
            Some(mask) if self.allowed.gather(adjusted, mask) => {
                let Allowed { tokens, logits } = &self.allowed;
                let tokens = Some(&**tokens);
                sample_row(
                    logits,
                    &SampleRowParams { sampling, seed, choice, position, tokens },
                    scratch,
                )
            }
            Some(_) => Sampled { token: 0, finite: false },
        };
        if !sampled.finite {
            return sampled;
        }
        self.token_counts.add_sampled(output, sampled.token);
        if let Some(tops) = output.logprobs.checked_sub(1) {
            logprobs(logits, sampled.token, tops.into(), &mut self.scratch, found);
        }
        sampled
    }
}

/// What a mask leaves of a row.
#[derive(Debug, Default)]
struct Allowed {
    /// Rising.
    tokens: Vec<Token>,
    /// Theirs.
    logits: Vec<f32>,
}

impl Allowed {
    /// Makes it what `mask` leaves of `logits`; says whether all of these are numbers, the masked
    /// ones too.
    fn gather(&mut self, logits: &[f32], mask: &Mask) -> bool {
        self.tokens.clear();
        self.logits.clear();
        let allowed = (0..).zip(logits).filter(|(token, _)| mask.allows(*token));
        allowed.for_each(|(token, logit)| {
            self.tokens.push(token);
            self.logits.push(*logit);
        });
        logits.iter().all(|logit| logit.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use binfer_proto::{Bias, Sampling, SlotId};

    use super::*;
    use crate::backend::cpu::sample::sample_row::split_mix;
    use crate::backend::cpu::sample::tests::{logits, oracle};
    use crate::backend::penalties;

    fn output(sampling: Sampling, seed: u64, logprobs: u8) -> BatchOutput {
        let (token, slot, biases) = (0, SlotId(1), 0);
        BatchOutput { token, slot, sampling, seed, choice: 0, position: 9, biases, logprobs }
    }

    fn choose<T: Copy>(bits: u64, from: &[T]) -> T {
        from[(bits >> 33) as usize % from.len()]
    }

    /// Any sampling; a mask that allows any share of the tokens, and at least one.
    fn case(case: u64) -> (Sampling, Mask, Vec<f32>) {
        let bits = |n: u64| split_mix(case * 31 + n);
        let len = choose(bits(0), &[1, 2, 8, 9, 100, 1000, 3000]);
        let sampling = Sampling {
            temperature: choose(bits(1), &[0.0, 0.1, 0.7, 1.0, 5.0]),
            top_k: choose(bits(2), &[0, 0, 1, 5, 40, 700]),
            top_p: choose(bits(3), &[1.0, 1.0, 0.3, 0.9, 0.9999]),
            min_p: choose(bits(4), &[0.0, 0.0, 0.001, 0.2, 1.0]),
            repetition_penalty: choose(bits(5), &[1.0, 1.0, 1.3]),
            frequency_penalty: choose(bits(6), &[0.0, 0.0, 0.75]),
            ..Sampling::GREEDY
        };
        let of_64 = choose(bits(7), &[0, 1, 20, 63, 64]);
        let always = (bits(8) >> 33) as u32 % len;
        let is_allowed =
            |token: &Token| *token == always || split_mix(bits(9) + u64::from(*token)) % 64 < of_64;
        let row = logits(case, len as usize, 2.0, choose(bits(10), &[None, Some(0.5)]));
        (sampling, Mask::of(0, len, (0..len).filter(is_allowed)), row)
    }

    #[test]
    fn masked_samples_equal_the_oracle_over_what_is_allowed() {
        for number in 0..1500 {
            let (sampling, mask, row) = case(number);
            let vocab = u32::try_from(row.len()).unwrap();
            let mut sampler = Sampler::new(2, row.len());
            let history: Vec<Token> = (0..vocab).step_by(3).chain([0, 0]).collect();
            let opened = SlotTokens { slot: SlotId(1), prompt_len: 1, history, biases: Vec::new() };
            sampler.open(&opened);
            let mut counts = vec![0; row.len()];
            penalties::open(&opened, &mut counts);
            let tokens: Vec<Token> = (0..vocab).filter(|token| mask.allows(*token)).collect();
            let output = output(sampling, number, 0);
            for _ in 0..3 {
                let adjusted = |(token, logit): (Token, &f32)| {
                    penalties::apply(*logit, (token, counts[token as usize]), &sampling, &[])
                };
                let adjusted: Vec<f32> = (0..).zip(&row).map(adjusted).collect();
                let greedy = |best: Token, next: Token| {
                    let [best_logit, next_logit] = [best, next].map(|t| adjusted[t as usize]);
                    if next_logit > best_logit { next } else { best }
                };
                let params = SampleRowParams {
                    sampling: &sampling,
                    seed: number,
                    choice: 0,
                    position: 9,
                    tokens: Some(&tokens),
                };
                let token = if sampling.temperature > 0.0 {
                    oracle(&adjusted, &params)
                } else {
                    tokens.iter().copied().reduce(greedy).unwrap()
                };
                let from = LogitsRow { output: &output, logits: &row, mask: Some(&mask) };
                let sampled = sampler.sample(from, &mut Vec::new());
                assert_eq!(sampled, Sampled { token, finite: true }, "case {number} {sampling:?}");
                penalties::add_sampled(&mut counts[token as usize]);
            }
        }
    }

    #[test]
    fn a_mask_neither_hides_what_is_no_number_nor_changes_logprobs() {
        let mut sampler = Sampler::new(2, 4);
        let output = output(Sampling::GREEDY, 0, 3);
        let mask = Mask::of(0, 4, [1, 2]);
        let mut found = Vec::new();
        let row = [9.0, 1.0, 2.0, 3.0];
        let masked = LogitsRow { output: &output, logits: &row, mask: Some(&mask) };
        assert_eq!(sampler.sample(masked, &mut found).token, 2);
        // Of the sampled token in the raw distribution, and of the likeliest, allowed or not.
        assert_eq!(found.iter().map(|one| one.token).collect::<Vec<_>>(), [2, 0, 3]);
        let all = Mask::of(0, 4, 0..4);
        let (mut plain, mut open) = (Vec::new(), Vec::new());
        let token = sampler.sample(LogitsRow { mask: None, ..masked }, &mut plain).token;
        assert_eq!(
            sampler.sample(LogitsRow { mask: Some(&all), ..masked }, &mut open).token,
            token
        );
        assert_eq!(plain, open);
        assert_eq!(plain[2], found[2]);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let logits = [bad, 1.0, 2.0, 3.0];
            let row = LogitsRow { logits: &logits, ..masked };
            assert!(!sampler.sample(row, &mut found).finite, "{bad}");
        }
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn a_bias_does_not_bring_a_masked_token_back() {
        let mut sampler = Sampler::new(2, 3);
        let biases = vec![Bias { token: 0, value: 100.0 }, Bias { token: 1, value: 5.0 }];
        let opened = SlotTokens { slot: SlotId(1), prompt_len: 0, history: Vec::new(), biases };
        sampler.open(&opened);
        let output = BatchOutput { biases: 2, ..output(Sampling::GREEDY, 0, 0) };
        let mut token = |mask: Option<&Mask>| {
            sampler
                .sample(LogitsRow { output: &output, logits: &[0.0; 3], mask }, &mut Vec::new())
                .token
        };
        assert_eq!(token(None), 0);
        assert_eq!(token(Some(&Mask::of(0, 3, [1, 2]))), 1);
    }
}

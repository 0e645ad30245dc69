//! One output from its logits to its token: penalties, the token mask, sampling, logprobs.

use binfer_proto::{Logprob, Mask, Token};

use super::{SampleParams, Scratch, TokenCounts, logprobs, sample_row};
use crate::backend::Sampled;
use crate::batch::{BatchOutput, SlotTokens};

/// What a token is sampled from.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// How to draw.
    pub output: &'a BatchOutput,
    /// Raw, one per token of the vocabulary.
    pub logits: &'a [f32],
    /// Which tokens may be sampled; all of them where absent.
    pub mask: Option<&'a Mask>,
}

/// Samples for all slots of a backend.
#[derive(Debug, Default)]
pub struct Sampler {
    history: TokenCounts,
    scratch: Scratch,
    /// Logits of a row, adjusted.
    adjusted: Vec<f32>,
    allowed: Allowed,
}

impl Sampler {
    /// For `slots` slots and a vocabulary; no draw allocates, but those of masked rows until one
    /// allowed as much.
    pub fn new(slots: usize, vocab: usize) -> Self {
        Self {
            history: TokenCounts::new(slots, vocab),
            scratch: Scratch::for_vocab(vocab),
            adjusted: Vec::with_capacity(vocab),
            allowed: Allowed::default(),
        }
    }

    /// A slot whose logits are adjusted begins anew.
    pub fn begin(&mut self, tokens: &SlotTokens) {
        self.history.begin(tokens);
    }

    /// Samples from a row, counts the token where a penalty needs it, and appends the logprobs that
    /// are wanted to `found`; none where the logits are not finite.
    pub fn sample(&mut self, row: Row<'_>, found: &mut Vec<Logprob>) -> Sampled {
        let Row { output, logits, mask } = row;
        let BatchOutput { sampling, seed, choice, position, .. } = output;
        let (seed, choice, position) = (*seed, *choice, *position);
        let adjusted = self.history.adjusted(output, logits, &mut self.adjusted);
        let scratch = &mut self.scratch;
        let sampled = match mask {
            None => sample_row(
                adjusted,
                &SampleParams { sampling, seed, choice, position, tokens: None },
                scratch,
            ),
            Some(mask) if self.allowed.gather(adjusted, mask) => {
                let Allowed { tokens, logits } = &self.allowed;
                let tokens = Some(&**tokens);
                sample_row(
                    logits,
                    &SampleParams { sampling, seed, choice, position, tokens },
                    scratch,
                )
            }
            Some(_) => Sampled { token: 0, finite: false },
        };
        if !sampled.finite {
            return sampled;
        }
        self.history.count(output, sampled.token);
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
    use crate::backend::adjust;
    use crate::backend::cpu::sample::split_mix;
    use crate::backend::cpu::sample::tests::{logits, oracle};

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
    fn masked_draws_equal_the_oracle_over_what_is_allowed() {
        for number in 0..1500 {
            let (sampling, mask, row) = case(number);
            let vocab = u32::try_from(row.len()).unwrap();
            let mut sampler = Sampler::new(2, row.len());
            let history: Vec<Token> = (0..vocab).step_by(3).chain([0, 0]).collect();
            let begun = SlotTokens { slot: SlotId(1), prompt_len: 1, history, biases: Vec::new() };
            sampler.begin(&begun);
            let mut entries = vec![0; row.len()];
            adjust::begin(&begun, &mut entries);
            let tokens: Vec<Token> = (0..vocab).filter(|token| mask.allows(*token)).collect();
            let output = output(sampling, number, 0);
            for _ in 0..3 {
                let adjusted = |(token, logit): (Token, &f32)| {
                    adjust::adjusted(*logit, (token, entries[token as usize]), &sampling, &[])
                };
                let adjusted: Vec<f32> = (0..).zip(&row).map(adjusted).collect();
                let greedy = |best: Token, next: Token| {
                    let [best_logit, next_logit] = [best, next].map(|t| adjusted[t as usize]);
                    if next_logit > best_logit { next } else { best }
                };
                let params = SampleParams {
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
                let drawn_from = Row { output: &output, logits: &row, mask: Some(&mask) };
                let sampled = sampler.sample(drawn_from, &mut Vec::new());
                assert_eq!(sampled, Sampled { token, finite: true }, "case {number} {sampling:?}");
                adjust::count(&mut entries[token as usize]);
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
        let masked = Row { output: &output, logits: &row, mask: Some(&mask) };
        assert_eq!(sampler.sample(masked, &mut found).token, 2);
        // Of the sampled token in the raw distribution, and of the likeliest, allowed or not.
        assert_eq!(found.iter().map(|one| one.token).collect::<Vec<_>>(), [2, 0, 3]);
        let all = Mask::of(0, 4, 0..4);
        let (mut plain, mut open) = (Vec::new(), Vec::new());
        let token = sampler.sample(Row { mask: None, ..masked }, &mut plain).token;
        assert_eq!(sampler.sample(Row { mask: Some(&all), ..masked }, &mut open).token, token);
        assert_eq!(plain, open);
        assert_eq!(plain[2], found[2]);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let logits = [bad, 1.0, 2.0, 3.0];
            let row = Row { logits: &logits, ..masked };
            assert!(!sampler.sample(row, &mut found).finite, "{bad}");
        }
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn a_bias_does_not_bring_a_masked_token_back() {
        let mut sampler = Sampler::new(2, 3);
        let biases = vec![Bias { token: 0, value: 100.0 }, Bias { token: 1, value: 5.0 }];
        let begun = SlotTokens { slot: SlotId(1), prompt_len: 0, history: Vec::new(), biases };
        sampler.begin(&begun);
        let output = BatchOutput { biases: 2, ..output(Sampling::GREEDY, 0, 0) };
        let mut token = |mask: Option<&Mask>| {
            sampler.sample(Row { output: &output, logits: &[0.0; 3], mask }, &mut Vec::new()).token
        };
        assert_eq!(token(None), 0);
        assert_eq!(token(Some(&Mask::of(0, 3, [1, 2]))), 1);
    }
}

//! Logprobs: of the sampled token and of the most likely ones, in the raw distribution.

use binfer_proto::{Logprob, Token};

use super::allowed::{Candidate, SampleScratch, TemperedSoftmax, fill, kth_largest};

/// Appends the logprob of `token` and those of the `tops` most likely tokens to `found`, the
/// likeliest first, the lower id before its equal. All `logits` are numbers.
pub(super) fn logprobs(
    logits: &[f32],
    token: Token,
    tops: usize,
    scratch: &mut SampleScratch,
    found: &mut Vec<Logprob>,
) {
    let largest = logits.iter().fold(f32::MIN, |a, &b| a.max(b));
    let softmax = TemperedSoftmax { largest, inverse_temperature: 1.0 };
    let log_total = f64::from(largest) + softmax.total(logits).ln();
    let of = |token: Token| {
        let logprob = f64::from(logits[token as usize]) - log_total;
        #[expect(clippy::cast_possible_truncation, reason = "what is sent has single precision")]
        Logprob { token, logprob: logprob.max(f64::from(f32::MIN)) as f32 }
    };
    found.push(of(token));
    let tops = tops.min(logits.len());
    if tops == 0 {
        return;
    }
    let least = kth_largest(logits, tops, &mut scratch.best);
    fill(&mut scratch.kept, logits, f64::from(least));
    scratch.kept.sort_unstable_by(Candidate::order);
    found.extend(scratch.kept[..tops].iter().map(|candidate| of(candidate.token)));
}

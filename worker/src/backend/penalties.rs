//! What penalties and biases make of a logit, and what a device must keep of a slot for that. It is
//! pure, and the same on every device.
//!
//! A device keeps 16 bits for each slot and token, the token's count: whether the prompt has the
//! token, whether it has a bias, and how often it was sampled. A count of 0 leaves the logit alone,
//! so a row costs little more than reading its counts. They are written when a slot is opened and
//! counted up as tokens are sampled, so no later plan speaks of them. Arithmetic is in single
//! precision, every operation rounded by itself, in the order that [`Sampling`] names. Temperature
//! and filters are each device's own.

use binfer_proto::{Bias, Sampling, Token};

use crate::batch::SlotTokens;

/// Set in the count of a token that the prompt has.
pub const IN_PROMPT: u16 = 1 << 15;
/// Set in the count of a token that has a bias.
pub const HAS_BIAS: u16 = 1 << 14;
/// The bits that say how often the token was sampled. They stop at their largest number.
pub const SAMPLED: u16 = HAS_BIAS - 1;

/// Fills `counts`, one per token of the vocabulary, for a slot that is opened with `tokens`.
pub fn open(tokens: &SlotTokens, counts: &mut [u16]) {
    counts.fill(0);
    let (prompt, sampled) = tokens.history.split_at(tokens.prompt_len.min(tokens.history.len()));
    prompt.iter().for_each(|token| counts[*token as usize] |= IN_PROMPT);
    sampled.iter().for_each(|token| add_sampled(&mut counts[*token as usize]));
    tokens.biases.iter().for_each(|bias| counts[bias.token as usize] |= HAS_BIAS);
}

/// Counts a token that was sampled.
pub fn add_sampled(count: &mut u16) {
    *count += u16::from(*count & SAMPLED < SAMPLED);
}

/// The logit that `token`, whose count is not 0, is sampled by. `biases` rise by token.
pub fn apply(
    logit: f32,
    (token, count): (Token, u16),
    sampling: &Sampling,
    biases: &[Bias],
) -> f32 {
    let Sampling {
        temperature: _,
        top_k: _,
        top_p: _,
        min_p: _,
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
    } = *sampling;
    let mut logit = logit;
    if count & HAS_BIAS != 0
        && let Ok(place) = biases.binary_search_by_key(&token, |bias| bias.token)
    {
        logit += biases[place].value;
    }
    if count & !HAS_BIAS != 0 {
        let above = logit > 0.0;
        logit = if above { logit / repetition_penalty } else { logit * repetition_penalty };
    }
    let sampled = count & SAMPLED;
    if sampled > 0 {
        logit -= frequency_penalty * f32::from(sampled);
        logit -= presence_penalty;
    }
    logit
}

/// How far below the largest logit min-p keeps a logit: at p times the likelihood, at this
/// temperature. Infinite where min-p is off.
#[expect(clippy::cast_possible_truncation, reason = "a border in single precision")]
pub fn min_p_depth(sampling: &Sampling) -> f32 {
    if sampling.min_p <= 0.0 {
        return f32::INFINITY;
    }
    (-f64::from(sampling.min_p).ln() * f64::from(sampling.temperature)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(prompt_len: usize, history: &[Token], biases: &[(Token, f32)]) -> SlotTokens {
        SlotTokens {
            slot: binfer_proto::SlotId(0),
            prompt_len,
            history: history.to_vec(),
            biases: biases
                .iter()
                .map(|(token, value)| Bias { token: *token, value: *value })
                .collect(),
        }
    }

    #[test]
    fn counts_tell_prompt_from_answer() {
        let mut counts = [7; 6];
        open(&slot(2, &[1, 1, 2, 3, 2, 1], &[(2, 1.0), (5, -1.0)]), &mut counts);
        assert_eq!(counts, [0, IN_PROMPT | 1, HAS_BIAS | 2, 1, 0, HAS_BIAS]);
        add_sampled(&mut counts[5]);
        assert_eq!(counts[5], HAS_BIAS | 1);
        counts[1] = IN_PROMPT | SAMPLED;
        add_sampled(&mut counts[1]);
        assert_eq!(counts[1], IN_PROMPT | SAMPLED);
    }

    #[test]
    fn bias_comes_first_then_repetition_frequency_presence() {
        let sampling = Sampling {
            repetition_penalty: 2.0,
            frequency_penalty: 0.5,
            presence_penalty: 0.25,
            ..Sampling::GREEDY
        };
        let biases = [Bias { token: 3, value: -4.0 }, Bias { token: 9, value: 1.0 }];
        let of = |logit, token, count| apply(logit, (token, count), &sampling, &biases);
        // A bias alone brings no penalty; a token of the prompt alone is only repeated.
        assert_eq!(of(1.0, 3, HAS_BIAS), -3.0);
        assert_eq!(of(3.0, 4, IN_PROMPT), 1.5);
        assert_eq!(of(-3.0, 4, IN_PROMPT), -6.0);
        assert_eq!(of(3.0, 4, 3), 1.5 - 1.5 - 0.25);
        // 1 - 4 is below 0, so it is multiplied.
        assert_eq!(of(1.0, 3, HAS_BIAS | 1), -6.0 - 0.5 - 0.25);
        assert_eq!(of(1.0, 9, HAS_BIAS | IN_PROMPT), 1.0);
    }
}

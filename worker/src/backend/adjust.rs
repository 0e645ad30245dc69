//! What biases and penalties make of a logit, and what a device must remember for that: pure, and
//! the same on every device.
//!
//! A device keeps an entry of 16 bits for each slot and token: whether the prompt has the token,
//! whether it has a bias, and how often it was drawn. An entry of 0 leaves the logit alone, so a
//! row costs little more than reading its entries. They are written when a slot is opened and
//! counted up as tokens are drawn: no later plan speaks of them. Single precision, every operation
//! rounded by itself, in the order that [`Sampling`] names. Deliberately absent: temperature and
//! filters, which are each device's own.

use binfer_proto::{Bias, Sampling, Token};

use crate::batch::SlotTokens;

/// Set in the entry of a token that the prompt has.
pub const IN_PROMPT: u16 = 1 << 15;
/// Set in the entry of a token that has a bias.
pub const HAS_BIAS: u16 = 1 << 14;
/// The rest of an entry: how often the token was drawn. It stops at its largest.
pub const DRAWN: u16 = HAS_BIAS - 1;

/// Makes `entries`, one per token of the vocabulary, those of a slot that begins with `tokens`.
pub fn begin(tokens: &SlotTokens, entries: &mut [u16]) {
    entries.fill(0);
    let (prompt, drawn) = tokens.history.split_at(tokens.prompt_len.min(tokens.history.len()));
    prompt.iter().for_each(|token| entries[*token as usize] |= IN_PROMPT);
    drawn.iter().for_each(|token| count(&mut entries[*token as usize]));
    tokens.biases.iter().for_each(|bias| entries[bias.token as usize] |= HAS_BIAS);
}

/// The entry's token was drawn.
pub fn count(entry: &mut u16) {
    *entry += u16::from(*entry & DRAWN < DRAWN);
}

/// The logit of `token`, whose entry is not 0, as it is drawn by; `biases` rise by token.
pub fn adjusted(
    logit: f32,
    (token, entry): (Token, u16),
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
    if entry & HAS_BIAS != 0
        && let Ok(place) = biases.binary_search_by_key(&token, |bias| bias.token)
    {
        logit += biases[place].value;
    }
    if entry & !HAS_BIAS != 0 {
        let above = logit > 0.0;
        logit = if above { logit / repetition_penalty } else { logit * repetition_penalty };
    }
    let drawn = entry & DRAWN;
    if drawn > 0 {
        logit -= frequency_penalty * f32::from(drawn);
        logit -= presence_penalty;
    }
    logit
}

/// How far below the largest logit min-p still keeps one: p times as likely at this temperature.
/// Infinite where it is off.
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
    fn entries_tell_prompt_from_answer_and_count() {
        let mut entries = [7; 6];
        begin(&slot(2, &[1, 1, 2, 3, 2, 1], &[(2, 1.0), (5, -1.0)]), &mut entries);
        assert_eq!(entries, [0, IN_PROMPT | 1, HAS_BIAS | 2, 1, 0, HAS_BIAS]);
        count(&mut entries[5]);
        assert_eq!(entries[5], HAS_BIAS | 1);
        entries[1] = IN_PROMPT | DRAWN;
        count(&mut entries[1]);
        assert_eq!(entries[1], IN_PROMPT | DRAWN);
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
        let of = |logit, token, entry| adjusted(logit, (token, entry), &sampling, &biases);
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

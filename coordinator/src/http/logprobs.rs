//! The JSON of an answer's logprobs, in OpenAI's two shapes: one for completions, one for chats.
//!
//! Every sampled token has an entry, even if it only makes up a stop string. A token's text is its
//! bytes as UTF-8, where broken ones become U+FFFD.

use super::endpoint::Endpoint;
use crate::front::{AnswerStream, Core};
use binfer_proto::{Logprob, Token};
use serde_json::{Map, Value, json};

/// The least logprob that is written, as OpenAI does: JSON has no infinities.
const LOGPROB_MIN: f32 = -9999.0;

/// Writes the logprobs of one answer, chunk by chunk.
#[derive(Debug)]
pub(super) struct LogprobsWriter {
    endpoint: Endpoint,
    core: Core,
    /// Logprobs that belong to a token: its own, then those of the most likely tokens.
    each: usize,
    /// Characters of the tokens before this chunk.
    offset: usize,
}

impl LogprobsWriter {
    /// The writer of an answer, if it has logprobs.
    pub(super) fn of(answer: &AnswerStream, endpoint: Endpoint, core: &Core) -> Option<Self> {
        let each = usize::from(answer.logprobs());
        (each > 0).then(|| Self { endpoint, core: core.clone(), each, offset: 0 })
    }

    /// The JSON of the next tokens' logprobs.
    pub(super) fn json(&mut self, logprobs: &[Logprob]) -> Value {
        match self.endpoint {
            Endpoint::Completion => self.columns(logprobs),
            Endpoint::Chat => {
                let entry = |all: &[Logprob]| {
                    let mut entry = self.entry(all[0]);
                    let tops = all[1..].iter().map(|top| self.entry(*top));
                    entry["top_logprobs"] = tops.collect();
                    entry
                };
                let content: Value = logprobs.chunks_exact(self.each).map(entry).collect();
                json!({ "content": content, "refusal": null })
            }
        }
    }

    /// A list for each column. Where two likely tokens have the same text, the more likely one is
    /// kept.
    fn columns(&mut self, logprobs: &[Logprob]) -> Value {
        let (mut tokens, mut values) = (Vec::new(), Vec::new());
        let (mut tops, mut offsets) = (Vec::new(), Vec::new());
        for all in logprobs.chunks_exact(self.each) {
            let text = self.text(all[0].token);
            offsets.push(self.offset);
            self.offset += text.chars().count();
            tokens.push(text);
            values.push(json_number(all[0]));
            let mut likely = Map::new();
            for one in all[1..].iter().chain(&all[..1]) {
                likely.entry(self.text(one.token)).or_insert(json_number(*one).into());
            }
            tops.push(likely);
        }
        json!({
            "tokens": tokens, "token_logprobs": values, "top_logprobs": tops,
            "text_offset": offsets,
        })
    }

    fn entry(&self, one: Logprob) -> Value {
        let bytes = self.core.token_bytes(one.token);
        let text = String::from_utf8_lossy(&bytes);
        json!({ "token": text, "logprob": json_number(one), "bytes": bytes })
    }

    fn text(&self, token: Token) -> String {
        String::from_utf8_lossy(&self.core.token_bytes(token)).into_owned()
    }
}

/// The logprob as a number that JSON has.
fn json_number(one: Logprob) -> f32 {
    one.logprob.max(LOGPROB_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logprob_is_always_a_number() {
        let written = |logprob| json_number(Logprob { token: 0, logprob });
        assert_eq!([-0.5, -9999.0, 0.0].map(written), [-0.5, -9999.0, 0.0]);
        for extreme in [f32::NEG_INFINITY, f32::MIN, f32::NAN] {
            assert_eq!(written(extreme), -9999.0, "{extreme}");
        }
    }
}

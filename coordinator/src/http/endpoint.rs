//! The two ways to ask for an answer, and the names that each gives to the core's fields.

use crate::front::Field;

/// Which of the two ways to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `/v1/completions`.
    Completion,
    /// `/v1/chat/completions`.
    Chat,
}

/// What a request calls the core's fields, for errors about them.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldNames {
    pub(super) endpoint: Endpoint,
    /// The field in which the client wrote the length of the answer.
    pub(super) max_tokens: &'static str,
}

impl FieldNames {
    pub(super) fn name(self, field: Field) -> &'static str {
        match (field, self.endpoint) {
            (Field::Prompt, Endpoint::Completion) => "prompt",
            (Field::Prompt, Endpoint::Chat) => "messages",
            (Field::MaxTokens, _) => self.max_tokens,
            (Field::Stop, _) => "stop",
            (Field::LogitBias, _) => "logit_bias",
            (Field::Temperature, _) => "temperature",
            (Field::TopP, _) => "top_p",
            (Field::MinP, _) => "min_p",
            (Field::RepetitionPenalty, _) => "repetition_penalty",
            (Field::PresencePenalty, _) => "presence_penalty",
            (Field::FrequencyPenalty, _) => "frequency_penalty",
        }
    }
}

//! The two ways to ask for an answer, and the names that each gives to the core's fields.

use crate::front::Field;
use binfer_proto::SamplingField;

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
            (Field::Choices, _) => "n",
            (Field::MinTokens, _) => "min_tokens",
            (Field::Stop, _) => "stop",
            (Field::StopTokens, _) => "stop_token_ids",
            (Field::PromptTokens, _) => "truncate_prompt_tokens",
            (Field::CacheSalt, _) => "cache_salt",
            (Field::Sampling(field), _) => sampling_name(field),
        }
    }
}

fn sampling_name(field: SamplingField) -> &'static str {
    match field {
        SamplingField::Temperature => "temperature",
        SamplingField::TopP => "top_p",
        SamplingField::MinP => "min_p",
        SamplingField::RepetitionPenalty => "repetition_penalty",
        SamplingField::PresencePenalty => "presence_penalty",
        SamplingField::FrequencyPenalty => "frequency_penalty",
        SamplingField::LogitBias => "logit_bias",
    }
}

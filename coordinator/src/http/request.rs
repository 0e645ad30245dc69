//! From a request's JSON to the core's request. Types are checked here, ranges in the core.

use super::chat_message::MessageFields;
use super::endpoint::{Endpoint, FieldNames};
use super::error::ApiError;
use super::field_names;
use super::json::{self, Object};
use super::json_lists::{List, LogitBiases, PromptValue, StopStrings};
use super::json_numbers::{CompletionLogprobs, Count, CutPrompt, Number, Seed, TopK, UpTo};
use crate::front::{
    GenerateRequest, MESSAGES_MAX, MaxTokens, ModelInfo, Prompt, PromptTokens, ReadMode,
    STOP_TOKENS_MAX,
};
use axum::http::StatusCode;
use binfer_proto::{Sampling, TOP_LOGPROBS_MAX, Token};
use serde::Deserialize;

/// Answers of `/v1/completions` are this long unless the request says otherwise.
const COMPLETION_TOKENS: u32 = 16;

/// A request that was parsed.
#[derive(Debug)]
pub(super) struct ParsedRequest {
    pub(super) generate: GenerateRequest,
    /// How many answers there are.
    pub(super) choices: u32,
    pub(super) stream: bool,
    /// What its answer has beside texts.
    pub(super) extras: AnswerExtras,
    /// What it calls the core's fields.
    pub(super) names: FieldNames,
    /// Names of unknown fields, for the operator.
    pub(super) unknown_fields: Vec<String>,
}

/// What an answer has beside texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AnswerExtras {
    /// A streamed answer ends with a chunk of token counts.
    pub(super) usage_at_end: bool,
    /// Every chunk of a streamed answer has the token counts so far.
    pub(super) usage_in_chunks: bool,
    /// The token ids of prompt and answer.
    pub(super) token_ids: bool,
}

impl AnswerExtras {
    /// Whether the answer's tokens are needed, and not its text alone.
    pub(super) fn wants_tokens(self) -> bool {
        self.token_ids || self.usage_in_chunks
    }
}

/// The fields that both endpoints read.
#[derive(Debug, Deserialize)]
struct CommonFields {
    model: Option<String>,
    max_tokens: Option<Count>,
    max_completion_tokens: Option<Count>,
    temperature: Option<Number>,
    top_k: Option<TopK>,
    top_p: Option<Number>,
    min_p: Option<Number>,
    repetition_penalty: Option<Number>,
    presence_penalty: Option<Number>,
    frequency_penalty: Option<Number>,
    logit_bias: Option<LogitBiases>,
    seed: Option<Seed>,
    stop: Option<StopStrings>,
    stream: Option<bool>,
    stream_options: Option<Object<StreamOptions>>,
    ignore_eos: Option<bool>,
    n: Option<Count>,
    best_of: Option<Count>,
    min_tokens: Option<Count>,
    stop_token_ids: Option<List<Count, STOP_TOKENS_MAX>>,
    include_stop_str_in_output: Option<bool>,
    skip_special_tokens: Option<bool>,
    add_special_tokens: Option<bool>,
    truncate_prompt_tokens: Option<CutPrompt>,
    return_token_ids: Option<bool>,
    cache_salt: Option<String>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
    continuous_usage_stats: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct CompletionFields {
    prompt: Option<PromptValue>,
    logprobs: Option<CompletionLogprobs>,
}

#[derive(Debug, Deserialize)]
struct ChatFields {
    messages: Option<List<Object<MessageFields>, MESSAGES_MAX>>,
    logprobs: Option<bool>,
    top_logprobs: Option<UpTo<{ TOP_LOGPROBS_MAX as u32 }>>,
}

/// Reads the body of a request.
pub(super) fn parse(
    endpoint: Endpoint,
    body: &[u8],
    served: &ModelInfo,
) -> Result<ParsedRequest, ApiError> {
    let unknown_fields = field_names::check(body, endpoint)?;
    let common: CommonFields = json::parse(body)?;
    if common.model.as_ref().is_some_and(|model| *model != served.name) {
        return Err(unknown_model(served));
    }
    let (prompt, top_logprobs) = match endpoint {
        Endpoint::Completion => completion(json::parse(body)?)?,
        Endpoint::Chat => chat(json::parse(body)?)?,
    };
    let parsed = common.parsed(endpoint, prompt, served.sampling)?;
    let generate = GenerateRequest { top_logprobs, ..parsed.generate };
    Ok(ParsedRequest { generate, unknown_fields, ..parsed })
}

fn completion(fields: CompletionFields) -> Result<(Prompt, Option<u8>), ApiError> {
    let prompt = match fields.prompt {
        None => return Err(ApiError::invalid("prompt", "prompt is missing")),
        Some(PromptValue::Text(text)) => Prompt::Text(text),
        Some(PromptValue::Tokens(tokens)) => Prompt::Tokens(tokens),
    };
    let count = fields.logprobs.and_then(|CompletionLogprobs(count)| count);
    Ok((prompt, count.map(tops)))
}

fn chat(fields: ChatFields) -> Result<(Prompt, Option<u8>), ApiError> {
    let Some(List(messages)) = fields.messages else {
        return Err(ApiError::invalid("messages", "messages is missing"));
    };
    let messages = messages.into_iter().enumerate();
    let messages =
        messages.map(|(index, Object(fields))| fields.message(index)).collect::<Result<_, _>>()?;
    let count = fields.top_logprobs.map_or(0, |UpTo(count)| count);
    let wanted = fields.logprobs.unwrap_or(false);
    if count > 0 && !wanted {
        return Err(ApiError::invalid("top_logprobs", "top_logprobs needs logprobs: true"));
    }
    Ok((Prompt::Chat(messages), wanted.then_some(tops(count))))
}

fn tokens(List(ids): List<Count, STOP_TOKENS_MAX>) -> Vec<Token> {
    ids.into_iter().map(|UpTo(id)| id).collect()
}

/// The count as the core takes it. Its type has bounded it already.
fn tops(count: u32) -> u8 {
    u8::try_from(count).unwrap_or(TOP_LOGPROBS_MAX)
}

/// The error for a model that is not served.
pub(super) fn unknown_model(served: &ModelInfo) -> ApiError {
    let message = format!("no such model; this server has {:?}", served.name);
    ApiError {
        param: Some("model".into()),
        code: Some("model_not_found"),
        ..ApiError::new(StatusCode::NOT_FOUND, message)
    }
}

impl CommonFields {
    /// How many answers there are. All that are drawn are given.
    fn choices(&self) -> Result<u32, ApiError> {
        let choices = self.n.map_or(1, |UpTo(count)| count);
        match self.best_of {
            Some(UpTo(best_of)) if best_of != choices => {
                let message = format!("best_of is {best_of}, and must be as many as n, {choices}");
                Err(ApiError::invalid("best_of", message))
            }
            _ => Ok(choices),
        }
    }

    /// The request for `prompt`. `sampling` holds for fields that are absent.
    fn parsed(
        self,
        endpoint: Endpoint,
        prompt: Prompt,
        sampling: Sampling,
    ) -> Result<ParsedRequest, ApiError> {
        let (written, name) = match self.max_completion_tokens {
            Some(tokens) => (Some(tokens), "max_completion_tokens"),
            None => (self.max_tokens, "max_tokens"),
        };
        let max_tokens = match (written, endpoint) {
            (Some(UpTo(tokens)), _) => MaxTokens::Asked(tokens),
            (None, Endpoint::Completion) => MaxTokens::AtMost(COMPLETION_TOKENS),
            (None, Endpoint::Chat) => MaxTokens::Rest,
        };
        let choices = self.choices()?;
        let stream = self.stream.unwrap_or(false);
        let mut extras = match self.stream_options {
            None => AnswerExtras::default(),
            Some(Object(options)) => options.extras(stream)?,
        };
        extras.token_ids = self.return_token_ids.unwrap_or(false);
        let or = |written: Option<Number>, default| written.map_or(default, |Number(value)| value);
        let generate = GenerateRequest {
            prompt,
            add_special_tokens: self.add_special_tokens,
            prompt_tokens: self
                .truncate_prompt_tokens
                .map_or(PromptTokens::All, |CutPrompt(cut)| cut),
            max_tokens,
            min_tokens: self.min_tokens.map_or(0, |UpTo(tokens)| tokens),
            sampling: Sampling {
                temperature: or(self.temperature, sampling.temperature),
                top_k: self.top_k.map_or(sampling.top_k, |TopK(count)| count),
                top_p: or(self.top_p, sampling.top_p),
                min_p: or(self.min_p, sampling.min_p),
                repetition_penalty: or(self.repetition_penalty, sampling.repetition_penalty),
                presence_penalty: or(self.presence_penalty, sampling.presence_penalty),
                frequency_penalty: or(self.frequency_penalty, sampling.frequency_penalty),
            },
            biases: self.logit_bias.map_or_else(Vec::new, |LogitBiases(biases)| biases),
            top_logprobs: None,
            seed: self.seed.and_then(|Seed(seed)| seed),
            stop: self.stop.map_or_else(Vec::new, |StopStrings(stops)| stops),
            stop_tokens: self.stop_token_ids.map_or_else(Vec::new, tokens),
            include_stop: self.include_stop_str_in_output.unwrap_or(false),
            ignore_eos: self.ignore_eos.unwrap_or(false),
            show_special_tokens: !self.skip_special_tokens.unwrap_or(true),
            token_ids: extras.wants_tokens(),
            cache_salt: self.cache_salt,
            read_mode: if stream { ReadMode::Streamed } else { ReadMode::Whole },
        };
        let names = FieldNames { endpoint, max_tokens: name };
        Ok(ParsedRequest { generate, choices, stream, extras, names, unknown_fields: Vec::new() })
    }
}

impl StreamOptions {
    fn extras(&self, stream: bool) -> Result<AnswerExtras, ApiError> {
        if !stream {
            let message = "stream_options needs stream: true";
            return Err(ApiError::invalid("stream_options", message));
        }
        Ok(AnswerExtras {
            usage_at_end: self.include_usage.unwrap_or(false),
            usage_in_chunks: self.continuous_usage_stats.unwrap_or(false),
            token_ids: false,
        })
    }
}

//! From a request of the protocol to the core's. Ranges are the core's; here zeros become defaults,
//! and what this server lacks is refused by name.

use crate::front::{Field, GenerateRequest, MaxTokens, ModelInfo, Prompt, PromptTokens, ReadMode};
use binfer_proto::client::vllm::grpc::engine::generate_request::Input;
use binfer_proto::client::vllm::grpc::engine::sampling_params::Constraint;
use binfer_proto::client::vllm::grpc::engine::{self as proto, SamplingParams};
use binfer_proto::{Bias, Sampling, SamplingField, TOP_LOGPROBS_MAX};
use tonic::Status;

/// A request that was read.
#[derive(Debug)]
pub(super) struct ReadRequest {
    pub(super) id: String,
    pub(super) generate: GenerateRequest,
    pub(super) stream: bool,
}

/// What the protocol calls the core's fields.
pub(super) fn name(field: Field) -> &'static str {
    match field {
        Field::Prompt => "input",
        Field::MaxTokens => "max_tokens",
        Field::Choices => "n",
        Field::MinTokens => "min_tokens",
        Field::Stop => "stop",
        Field::StopTokens => "stop_token_ids",
        Field::PromptTokens => "truncate_prompt_tokens",
        Field::CacheSalt => "cache_salt",
        Field::Sampling(field) => match field {
            SamplingField::Temperature => "temperature",
            SamplingField::TopP => "top_p",
            SamplingField::MinP => "min_p",
            SamplingField::RepetitionPenalty => "repetition_penalty",
            SamplingField::PresencePenalty => "presence_penalty",
            SamplingField::FrequencyPenalty => "frequency_penalty",
            SamplingField::LogitBias => "logit_bias",
        },
    }
}

/// Reads a request for the model `served`.
pub(super) fn read(
    request: proto::GenerateRequest,
    served: &ModelInfo,
) -> Result<ReadRequest, Status> {
    refuse_inputs(&request)?;
    check_replica(request.data_parallel_rank, "data_parallel_rank")?;
    let prompt = match request.input {
        Some(Input::Tokenized(input)) => Prompt::Tokens(input.input_ids),
        Some(Input::Text(text)) => Prompt::Text(text),
        None => return Err(Status::invalid_argument("input is missing")),
    };
    let params = request.sampling_params.unwrap_or_default();
    refuse_params(&params)?;
    let sampling = sampling(&params, served.sampling);
    let generate = GenerateRequest {
        prompt_tokens: prompt_tokens(params.truncate_prompt_tokens)?,
        max_tokens: params.max_tokens.map_or(MaxTokens::Rest, MaxTokens::Asked),
        min_tokens: params.min_tokens,
        biases: biases(&params)?,
        top_logprobs: params.logprobs.map(top_logprobs).transpose()?,
        seed: params.seed.map(|seed| i64::from(seed).cast_unsigned()),
        stop: params.stop,
        stop_tokens: params.stop_token_ids,
        ignore_eos: params.ignore_eos,
        token_ids: true,
        read_mode: if request.stream { ReadMode::Streamed } else { ReadMode::Whole },
        ..GenerateRequest::new(prompt, sampling)
    };
    Ok(ReadRequest { id: request.request_id, generate, stream: request.stream })
}

/// There is one replica, the first.
pub(super) fn check_replica(rank: Option<i32>, name: &str) -> Result<(), Status> {
    match rank {
        None | Some(0) => Ok(()),
        Some(rank) => {
            Err(Status::invalid_argument(format!("{name} is {rank}, and there is one replica, 0")))
        }
    }
}

/// Zeros are the protocol's way to say nothing. A temperature can be absent, and is then the
/// model's.
fn sampling(params: &SamplingParams, model: Sampling) -> Sampling {
    let or_one = |value: f32| if value == 0.0 { 1.0 } else { value };
    Sampling {
        temperature: params.temperature.unwrap_or(model.temperature),
        top_k: params.top_k,
        top_p: or_one(params.top_p),
        min_p: params.min_p,
        repetition_penalty: or_one(params.repetition_penalty),
        presence_penalty: params.presence_penalty,
        frequency_penalty: params.frequency_penalty,
    }
}

fn biases(params: &SamplingParams) -> Result<Vec<Bias>, Status> {
    let bias = |(token, value): (&i32, &f32)| match u32::try_from(*token) {
        Ok(token) => Ok(Bias { token, value: *value }),
        Err(_) => Err(Status::invalid_argument(format!("logit_bias holds token {token}"))),
    };
    params.logit_bias.iter().map(bias).collect()
}

/// How much of a long prompt is kept; -1 is as much as leaves room for the answer.
fn prompt_tokens(count: Option<i32>) -> Result<PromptTokens, Status> {
    match count {
        None => Ok(PromptTokens::All),
        Some(-1) => Ok(PromptTokens::Fitting),
        Some(count) => u32::try_from(count).map(PromptTokens::Last).map_err(|_| {
            Status::invalid_argument(format!(
                "truncate_prompt_tokens is {count}, expected -1 or more"
            ))
        }),
    }
}

fn top_logprobs(count: i32) -> Result<u8, Status> {
    u8::try_from(count).ok().filter(|count| *count <= TOP_LOGPROBS_MAX).ok_or_else(|| {
        Status::invalid_argument(format!("logprobs is {count}, expected 0 to {TOP_LOGPROBS_MAX}"))
    })
}

fn refused(name: &str, what: &str) -> Status {
    Status::invalid_argument(format!("{name} is not supported: {what}"))
}

/// Refuses inputs that are no text, and transfers between engines.
fn refuse_inputs(request: &proto::GenerateRequest) -> Result<(), Status> {
    let no_text = "this server takes text alone";
    let no_transfer = "there is no transfer of KV caches between servers";
    let lacks = [
        (request.mm_inputs.is_some(), "mm_inputs", no_text),
        (!request.extra_mm_inputs.is_empty(), "extra_mm_inputs", no_text),
        (request.media_refs.is_some(), "media_refs", no_text),
        (request.kv_transfer_params.is_some(), "kv_transfer_params", no_transfer),
        (request.kv_transfer_params_json.is_some(), "kv_transfer_params_json", no_transfer),
    ];
    refuse_first(&lacks)
}

/// Refuses what would change the answer and is not there.
fn refuse_params(params: &SamplingParams) -> Result<(), Status> {
    if let Some(constraint) = &params.constraint {
        let name = match constraint {
            Constraint::JsonSchema(_) => "json_schema",
            Constraint::Regex(_) => "regex",
            Constraint::Grammar(_) => "grammar",
            Constraint::StructuralTag(_) => "structural_tag",
            Constraint::JsonObject(_) => "json_object",
            Constraint::Choice(_) => "choice",
        };
        return Err(refused(name, "there is no structured output"));
    }
    let lacks = [
        (params.n > 1, "n", "one answer a request"),
        (params.prompt_logprobs.is_some(), "prompt_logprobs", "logprobs are those of the answer"),
    ];
    refuse_first(&lacks)
}

fn refuse_first(lacks: &[(bool, &str, &str)]) -> Result<(), Status> {
    match lacks.iter().find(|(is_asked, ..)| *is_asked) {
        Some((_, name, what)) => Err(refused(name, what)),
        None => Ok(()),
    }
}

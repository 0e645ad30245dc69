//! JSON of a request to what the core takes. Types are checked here, ranges in the core.

use super::error::ApiError;
use super::fields::{Fields, kind};
use super::unsupported::{refuse_chat, refuse_completion};
use crate::front::{Core, Generate, MaxTokens, Prompt, Reading};
use crate::text::Message;
use axum::http::StatusCode;
use binfer_proto::{Bias, Sampling, TOP_LOGPROBS_MAX, Token};
use serde_json::Value;

/// Answers of `/v1/completions` are this long unless the request says otherwise.
const COMPLETION_TOKENS: u32 = 16;
/// Most likely tokens beside each of a completion at most.
const COMPLETION_LOGPROBS_MAX: u8 = 5;

/// A request, parsed.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) ask: Generate,
    pub(super) stream: bool,
    /// A streamed answer ends with a chunk of token counts.
    pub(super) include_usage: bool,
    /// The field in which the client wrote `max_tokens`.
    pub(super) max_tokens_field: &'static str,
}

pub(super) fn completion(body: &[u8], core: &Core) -> Result<Parsed, ApiError> {
    let value = object(body)?;
    let fields = fields(&value)?;
    check_model(fields, core)?;
    refuse_completion(fields)?;
    let prompt = prompt(fields)?;
    let length = MaxTokens::AtMost(COMPLETION_TOKENS);
    let mut parsed = parsed(fields, prompt, length, core.model().sampling)?;
    parsed.ask.top_logprobs = match fields.get("logprobs") {
        Some(Value::Bool(false)) => None,
        _ => top_count(fields, "logprobs", COMPLETION_LOGPROBS_MAX)?,
    };
    Ok(parsed)
}

pub(super) fn chat(body: &[u8], core: &Core) -> Result<Parsed, ApiError> {
    let value = object(body)?;
    let fields = fields(&value)?;
    check_model(fields, core)?;
    refuse_chat(fields)?;
    let Some(messages) = fields.array("messages")? else {
        return Err(ApiError::invalid("messages", "messages is missing"));
    };
    let messages = messages.iter().enumerate().map(|(index, value)| message(index, value));
    let messages = messages.collect::<Result<_, _>>()?;
    let prompt = Prompt::Chat(messages);
    let mut parsed = parsed(fields, prompt, MaxTokens::Rest, core.model().sampling)?;
    let tops = top_count(fields, "top_logprobs", TOP_LOGPROBS_MAX)?;
    let wanted = fields.bool("logprobs")?.unwrap_or(false);
    if tops.is_some_and(|tops| tops > 0) && !wanted {
        return Err(ApiError::invalid("top_logprobs", "top_logprobs needs logprobs: true"));
    }
    parsed.ask.top_logprobs = wanted.then_some(tops.unwrap_or(0));
    Ok(parsed)
}

/// How many of the most likely tokens are asked for.
fn top_count(fields: Fields<'_>, name: &str, most: u8) -> Result<Option<u8>, ApiError> {
    let Some(count) = fields.count(name)? else { return Ok(None) };
    let count = u8::try_from(count).ok().filter(|count| *count <= most);
    let refused = || ApiError::invalid(name, format!("{name} must be at most {most}"));
    count.map(Some).ok_or_else(refused)
}

fn object(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let what = match error.classify() {
            serde_json::error::Category::Eof => "ends too early",
            _ => "is wrong",
        };
        let message = format!("the body is not JSON: it {what} at line {line}, column {column}");
        ApiError::new(StatusCode::BAD_REQUEST, message)
    })
}

fn fields(value: &Value) -> Result<Fields<'_>, ApiError> {
    value.as_object().map(Fields).ok_or_else(|| {
        let message = format!("the body must be a JSON object, but is {}", kind(value));
        ApiError::new(StatusCode::BAD_REQUEST, message)
    })
}

fn check_model(fields: Fields<'_>, core: &Core) -> Result<(), ApiError> {
    match fields.string("model")? {
        Some(model) if model != core.model().name => Err(unknown_model(core)),
        _ => Ok(()),
    }
}

/// The answer to a name that is not served.
pub(super) fn unknown_model(core: &Core) -> ApiError {
    let message = format!("no such model; this server has {:?}", core.model().name);
    ApiError {
        param: Some("model".into()),
        code: Some("model_not_found"),
        ..ApiError::new(StatusCode::NOT_FOUND, message)
    }
}

/// `length` and `sampling` are what holds for fields that are absent.
fn parsed(
    fields: Fields<'_>,
    prompt: Prompt,
    length: MaxTokens,
    sampling: Sampling,
) -> Result<Parsed, ApiError> {
    let (max_tokens, max_tokens_field) = match fields.count("max_completion_tokens")? {
        Some(tokens) => (Some(tokens), "max_completion_tokens"),
        None => (fields.count("max_tokens")?, "max_tokens"),
    };
    let stream = fields.bool("stream")?.unwrap_or(false);
    let options = fields.object("stream_options")?;
    if options.is_some() && !stream {
        return Err(ApiError::invalid("stream_options", "stream_options needs stream: true"));
    }
    let include_usage = options.map(|options| options.bool("include_usage")).transpose();
    let include_usage = include_usage.map_err(|error| within("stream_options", error))?;
    let ask = Generate {
        prompt,
        max_tokens: max_tokens.map_or(length, MaxTokens::Asked),
        sampling: Sampling {
            temperature: fields.number("temperature")?.unwrap_or(sampling.temperature),
            top_k: top_k(fields)?.unwrap_or(sampling.top_k),
            top_p: fields.number("top_p")?.unwrap_or(sampling.top_p),
            min_p: fields.number("min_p")?.unwrap_or(sampling.min_p),
            repetition_penalty: fields
                .number("repetition_penalty")?
                .unwrap_or(sampling.repetition_penalty),
            presence_penalty: fields
                .number("presence_penalty")?
                .unwrap_or(sampling.presence_penalty),
            frequency_penalty: fields
                .number("frequency_penalty")?
                .unwrap_or(sampling.frequency_penalty),
        },
        biases: biases(fields)?,
        top_logprobs: None,
        seed: fields.seed("seed")?,
        stop: stop(fields)?,
        ignore_eos: fields.bool("ignore_eos")?.unwrap_or(false),
        reading: if stream { Reading::Streamed } else { Reading::Whole },
    };
    let include_usage = include_usage.flatten().unwrap_or(false);
    Ok(Parsed { ask, stream, include_usage, max_tokens_field })
}

/// vLLM's clients write -1 for all.
fn top_k(fields: Fields<'_>) -> Result<Option<u32>, ApiError> {
    if fields.get("top_k").and_then(Value::as_i64) == Some(-1) {
        return Ok(Some(0));
    }
    fields.count("top_k")
}

/// Token ids, as strings, with what is added to their logits.
fn biases(fields: Fields<'_>) -> Result<Vec<Bias>, ApiError> {
    let Some(biases) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    let bias = |(id, value): (&String, &Value)| {
        #[expect(clippy::cast_possible_truncation, reason = "too large is refused later")]
        Some(Bias { token: id.parse().ok()?, value: value.as_f64()? as f32 })
    };
    biases
        .0
        .iter()
        .map(bias)
        .collect::<Option<_>>()
        .ok_or_else(|| ApiError::invalid("logit_bias", "logit_bias must map token ids to numbers"))
}

fn stop(fields: Fields<'_>) -> Result<Vec<String>, ApiError> {
    let strings = match fields.get("stop") {
        None => Some(Vec::new()),
        Some(Value::String(stop)) => Some(vec![stop.clone()]),
        Some(Value::Array(stops)) => {
            stops.iter().map(|stop| stop.as_str().map(str::to_owned)).collect()
        }
        Some(_) => None,
    };
    strings.ok_or_else(|| ApiError::invalid("stop", "stop must be a string or strings"))
}

/// A text, the tokens of one, or either in an array of one.
fn prompt(fields: Fields<'_>) -> Result<Prompt, ApiError> {
    let wrong = || ApiError::invalid("prompt", "prompt must be a string or an array of token ids");
    match fields.get("prompt") {
        None => Err(ApiError::invalid("prompt", "prompt is missing")),
        Some(Value::String(text)) => Ok(Prompt::Text(text.clone())),
        Some(Value::Array(items)) => match items.as_slice() {
            [Value::String(text)] => Ok(Prompt::Text(text.clone())),
            [Value::Array(tokens)] => Ok(Prompt::Tokens(token_ids(tokens).ok_or_else(wrong)?)),
            [Value::String(_) | Value::Array(_), ..] => {
                let message = "several prompts in one request are not in this version";
                Err(ApiError::invalid("prompt", message))
            }
            tokens => Ok(Prompt::Tokens(token_ids(tokens).ok_or_else(wrong)?)),
        },
        Some(_) => Err(wrong()),
    }
}

fn token_ids(values: &[Value]) -> Option<Vec<Token>> {
    values.iter().map(|value| Token::try_from(value.as_u64()?).ok()).collect()
}

fn message(index: usize, value: &Value) -> Result<Message, ApiError> {
    let place = format!("messages[{index}]");
    let Some(fields) = value.as_object().map(Fields) else {
        let message = format!("{place} must be an object, but is {}", kind(value));
        return Err(ApiError::invalid(place, message));
    };
    let role = fields.string("role").map_err(|error| within(&place, error))?;
    let Some(role) = role else {
        return Err(ApiError::invalid(format!("{place}.role"), format!("{place}.role is missing")));
    };
    let unknown = match role {
        "system" | "developer" | "user" | "assistant" => None,
        "tool" | "function" => Some("is not in this version"),
        _ => Some("must be system, developer, user or assistant"),
    };
    if let Some(why) = unknown {
        return Err(ApiError::invalid(format!("{place}.role"), format!("{place}.role {why}")));
    }
    for name in ["tool_calls", "function_call", "audio"] {
        if fields.get(name).is_some() {
            let message = format!("{place}.{name} is not in this version");
            return Err(ApiError::invalid(format!("{place}.{name}"), message));
        }
    }
    let content = content(&format!("{place}.content"), fields.get("content"))?;
    Ok(Message { role: role.to_owned(), content })
}

/// A text, or parts that are texts; parts are joined by a line break, as vLLM does.
fn content(place: &str, value: Option<&Value>) -> Result<String, ApiError> {
    let invalid = |message: &str| Err(ApiError::invalid(place, format!("{place} {message}")));
    match value {
        None => invalid("is missing"),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => {
            let mut texts = Vec::with_capacity(parts.len());
            for part in parts {
                match (part.get("type").and_then(Value::as_str), part.get("text")) {
                    (Some("text"), Some(Value::String(text))) => texts.push(text.as_str()),
                    (Some("text") | None, _) => return invalid("has a part without text"),
                    (Some(_), _) => {
                        return invalid("has a part that is not text: not in this version");
                    }
                }
            }
            Ok(texts.join("\n"))
        }
        Some(_) => invalid("must be a string or an array of text parts"),
    }
}

/// Puts the enclosing field before the field that an error names.
fn within(place: &str, error: ApiError) -> ApiError {
    let param = error.param.map(|param| format!("{place}.{param}"));
    ApiError { message: format!("{place}: {}", error.message), param, ..error }
}

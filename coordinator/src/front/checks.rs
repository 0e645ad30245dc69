//! Ranges of what a request may ask, each error naming its field. Pure.

use super::error::SubmitError;
use super::generate_request::{MaxTokens, Prompt};
use super::info::{CoreLimits, ModelInfo};
use binfer_proto::{Bias, Sampling, TOP_LOGPROBS_MAX, Token};
use std::sync::Arc;

/// Fields of [`Sampling`] and biases, by which an error of their check begins.
const SAMPLING_FIELDS: [&str; 8] = [
    "logit_bias",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
];

/// The parameters as plans carry them. Requests of every front pass here.
pub(super) fn sampling(sampling: Sampling) -> Result<Sampling, SubmitError> {
    sampling.checked().map_err(sampling_error)
}

/// Biases by rising token, as plans carry them.
pub(super) fn biases(biases: Vec<Bias>, model: &ModelInfo) -> Result<Vec<Bias>, SubmitError> {
    let mut biases: Vec<Bias> = biases.into_iter().map(Bias::canonical).collect();
    biases.sort_by_key(|bias| bias.token);
    Bias::check(&biases, model.vocab).map_err(sampling_error)?;
    Ok(biases)
}

/// How many logprobs come with a token where `tops` most likely ones are asked for beside it: no
/// more than there are, and than a plan may ask for.
pub(super) fn logprobs(tops: Option<u8>, model: &ModelInfo) -> u8 {
    let vocab = u8::try_from(model.vocab).unwrap_or(u8::MAX);
    tops.map_or(0, |tops| 1 + tops.min(TOP_LOGPROBS_MAX).min(vocab))
}

/// The check writes the field's name first.
pub(super) fn sampling_error(cause: String) -> SubmitError {
    let param = SAMPLING_FIELDS.into_iter().find(|name| cause.starts_with(name));
    SubmitError::Invalid { param: param.unwrap_or("sampling"), message: cause }
}

pub(super) fn stop(stop: &[String], limits: &CoreLimits) -> Result<(), SubmitError> {
    let (strings_max, bytes_max) = (limits.stop_strings_max, limits.stop_string_bytes_max);
    if stop.len() > strings_max {
        let message = format!("stop has {} strings, at most {strings_max} are taken", stop.len());
        return Err(SubmitError::invalid("stop", message));
    }
    if stop.iter().any(String::is_empty) {
        return Err(SubmitError::invalid("stop", "stop must not hold an empty string"));
    }
    if let Some(long) = stop.iter().find(|text| text.len() > bytes_max) {
        let message =
            format!("stop holds a string of {} bytes, at most {bytes_max} are taken", long.len());
        return Err(SubmitError::invalid("stop", message));
    }
    Ok(())
}

/// Tokens that end the answer, and whether they are ignored. A stop string that names a control
/// token is found by the token, since no text shows it, and whatever is ignored.
pub(super) fn ends(
    mut named: Vec<Token>,
    own: &Arc<[Token]>,
    ignore_eos: bool,
) -> (Arc<[Token]>, bool) {
    if named.is_empty() {
        return (Arc::clone(own), ignore_eos);
    }
    named.extend(own.iter().filter(|_| !ignore_eos));
    (named.into(), false)
}

/// What can be said of a prompt before it is tokenised.
pub(super) fn prompt(
    prompt: &Prompt,
    model: &ModelInfo,
    limits: &CoreLimits,
    context_max: u32,
) -> Result<(), SubmitError> {
    let bytes = match prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Tokens(tokens) => {
            return self::tokens(tokens, model, "prompt");
        }
        Prompt::Chat(messages) => {
            if messages.is_empty() {
                return Err(SubmitError::invalid("messages", "messages must not be empty"));
            }
            if messages.len() > limits.messages_max {
                let message = format!(
                    "{} messages, at most {} are taken",
                    messages.len(),
                    limits.messages_max
                );
                return Err(SubmitError::invalid("messages", message));
            }
            messages.iter().map(|message| message.content.len()).sum()
        }
    };
    let bytes_max = limits.prompt_bytes_max;
    if bytes > bytes_max {
        let param = prompt.param();
        let but = format!("{param} has {bytes} bytes, of which {bytes_max} at most are tokenised");
        return Err(SubmitError::too_long(param, context_max, &but));
    }
    Ok(())
}

/// A tokenizer may know more tokens than the model has rows for.
pub(super) fn tokens(
    tokens: &[Token],
    model: &ModelInfo,
    param: &'static str,
) -> Result<(), SubmitError> {
    match tokens.iter().find(|token| **token >= model.vocab) {
        None => Ok(()),
        Some(token) => {
            let vocab = model.vocab;
            let message = format!("{param}: token {token} is not below the vocabulary of {vocab}");
            Err(SubmitError::invalid(param, message))
        }
    }
}

/// How many tokens the answer may have.
pub(super) fn room(
    prompt_tokens: usize,
    max_tokens: MaxTokens,
    context_max: u32,
    param: &'static str,
) -> Result<u32, SubmitError> {
    if prompt_tokens == 0 {
        return Err(SubmitError::invalid(param, format!("{param} holds no token")));
    }
    let room = u32::try_from(prompt_tokens).ok().and_then(|used| context_max.checked_sub(used));
    let Some(room) = room.filter(|room| *room > 0) else {
        let but = format!("{param} has {prompt_tokens} tokens, which leaves no room for an answer");
        return Err(SubmitError::too_long(param, context_max, &but));
    };
    match max_tokens {
        MaxTokens::Rest => Ok(room),
        MaxTokens::Asked(0) | MaxTokens::AtMost(0) => {
            Err(SubmitError::invalid("max_tokens", "max_tokens must be at least 1"))
        }
        MaxTokens::AtMost(most) => Ok(most.min(room)),
        MaxTokens::Asked(asked) if asked > room => {
            let but = format!(
                "max_tokens is {asked}, and {param} has {prompt_tokens} tokens, which leaves room \
                 for {room}"
            );
            Err(SubmitError::too_long("max_tokens", context_max, &but))
        }
        MaxTokens::Asked(asked) => Ok(asked),
    }
}

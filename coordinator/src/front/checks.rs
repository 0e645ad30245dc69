//! Pure checks of what a request may ask. Each error names its field.

use super::error::{Field, FieldError, SubmitError};
use super::generate_request::{MaxTokens, Prompt};
use super::info::{CoreLimits, ModelInfo};
use crate::text::Message;
use binfer_proto::{Bias, Sampling, TOP_LOGPROBS_MAX, Token};
use std::sync::Arc;

/// The parameters as plans carry them.
pub(super) fn sampling(sampling: Sampling) -> Result<Sampling, SubmitError> {
    sampling.checked().map_err(|error| FieldError::from(error).into())
}

/// Biases by rising token, as plans carry them.
pub(super) fn biases(biases: Vec<Bias>, model: &ModelInfo) -> Result<Vec<Bias>, SubmitError> {
    let mut biases: Vec<Bias> = biases.into_iter().map(Bias::canonical).collect();
    biases.sort_by_key(|bias| bias.token);
    Bias::check(&biases, model.vocab).map_err(FieldError::from)?;
    Ok(biases)
}

/// How many logprobs come with a token where `tops` most likely ones are asked for beside it. They
/// are no more than there are tokens, and no more than a plan may ask for.
pub(super) fn logprobs(tops: Option<u8>, model: &ModelInfo) -> u8 {
    let vocab = u8::try_from(model.vocab).unwrap_or(u8::MAX);
    tops.map_or(0, |tops| 1 + tops.min(TOP_LOGPROBS_MAX).min(vocab))
}

/// Refuses too many, too long and empty stop strings.
pub(super) fn stop(stop: &[String], limits: &CoreLimits) -> Result<(), FieldError> {
    let (strings_max, bytes_max) = (limits.stop_strings_max, limits.stop_string_bytes_max);
    let refused = |cause| Err(FieldError::new(Field::Stop, cause));
    if stop.len() > strings_max {
        return refused(format!("has {} strings, at most {strings_max} are taken", stop.len()));
    }
    if stop.iter().any(String::is_empty) {
        return refused("must not hold an empty string".into());
    }
    match stop.iter().map(String::len).find(|bytes| *bytes > bytes_max) {
        Some(bytes) => {
            refused(format!("holds a string of {bytes} bytes, at most {bytes_max} are taken"))
        }
        None => Ok(()),
    }
}

/// Tokens that end the answer, and whether they are ignored. A stop string that names a control
/// token is found by the token, since no text shows it, and also where end tokens are ignored.
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

/// Refuses what can be refused of a prompt before it is tokenised.
pub(super) fn prompt(
    prompt: &Prompt,
    model: &ModelInfo,
    limits: &CoreLimits,
    context_max: u32,
) -> Result<(), SubmitError> {
    let refused = |cause| FieldError::new(Field::Prompt, cause);
    let bytes = match prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Tokens(tokens) => return Ok(self::tokens(tokens, model)?),
        Prompt::Chat(messages) => {
            if messages.is_empty() {
                return Err(refused("must not be empty".into()).into());
            }
            let (count, most) = (messages.len(), limits.messages_max);
            if count > most {
                let cause = format!("has {count} messages, at most {most} are taken");
                return Err(refused(cause).into());
            }
            messages.iter().map(Message::text_bytes).sum()
        }
    };
    let bytes_max = limits.prompt_bytes_max;
    if bytes > bytes_max {
        let cause = format!("has {bytes} bytes, of which {bytes_max} at most are tokenised");
        return Err(SubmitError::TooLong { context_max, error: refused(cause) });
    }
    Ok(())
}

/// Refuses tokens without a row in the model: a tokenizer may know more of them.
pub(super) fn tokens(tokens: &[Token], model: &ModelInfo) -> Result<(), FieldError> {
    match tokens.iter().find(|token| **token >= model.vocab) {
        None => Ok(()),
        Some(token) => {
            let vocab = model.vocab;
            let cause =
                format!("holds token {token}, which is not below the vocabulary of {vocab}");
            Err(FieldError::new(Field::Prompt, cause))
        }
    }
}

/// Tokens of the answer at most.
pub(super) fn max_tokens(
    prompt_tokens: usize,
    max_tokens: MaxTokens,
    context_max: u32,
) -> Result<u32, SubmitError> {
    if prompt_tokens == 0 {
        return Err(FieldError::new(Field::Prompt, "holds no token").into());
    }
    let too_long =
        |field, cause| SubmitError::TooLong { context_max, error: FieldError::new(field, cause) };
    let room = u32::try_from(prompt_tokens).ok().and_then(|used| context_max.checked_sub(used));
    let Some(room) = room.filter(|room| *room > 0) else {
        let cause = format!("has {prompt_tokens} tokens, which leaves no room for an answer");
        return Err(too_long(Field::Prompt, cause));
    };
    match max_tokens {
        MaxTokens::Rest => Ok(room),
        MaxTokens::Asked(0) | MaxTokens::AtMost(0) => {
            Err(FieldError::new(Field::MaxTokens, "must be at least 1").into())
        }
        MaxTokens::AtMost(most) => Ok(most.min(room)),
        MaxTokens::Asked(asked) if asked > room => {
            let cause = format!(
                "is {asked}, and the prompt has {prompt_tokens} tokens, which leaves room for \
                 {room}"
            );
            Err(too_long(Field::MaxTokens, cause))
        }
        MaxTokens::Asked(asked) => Ok(asked),
    }
}

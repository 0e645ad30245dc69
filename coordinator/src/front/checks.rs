//! Pure checks of what a request may ask. Each error names its field.

use super::error::{Field, FieldError, SubmitError};
use super::generate_request::{MaxTokens, Prompt, PromptTokens};
use super::info::{CoreLimits, ModelInfo};
use crate::text::Message;
use binfer_proto::{Bias, Sampling, TOP_LOGPROBS_MAX, Token};

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

/// Cuts a prompt down to the last tokens that are asked for.
pub(super) fn cut_prompt(
    tokens: &mut Vec<Token>,
    kept: PromptTokens,
    max_tokens: MaxTokens,
    context_max: u32,
) -> Result<(), FieldError> {
    let kept = match kept {
        PromptTokens::All => return Ok(()),
        PromptTokens::Last(count) if count == 0 || count > context_max => {
            let cause = format!("is {count}, not -1 or from 1 to {context_max}");
            return Err(FieldError::new(Field::PromptTokens, cause));
        }
        PromptTokens::Last(count) => count,
        PromptTokens::Fitting => {
            let answer = match max_tokens {
                MaxTokens::Asked(asked) => asked,
                MaxTokens::Rest | MaxTokens::AtMost(_) => 1,
            };
            context_max.saturating_sub(answer).max(1)
        }
    };
    tokens.drain(..tokens.len().saturating_sub(kept as usize));
    Ok(())
}

/// Refuses a salt that is empty or too long.
pub(super) fn cache_salt(salt: Option<&str>, limits: &CoreLimits) -> Result<(), FieldError> {
    let bytes_max = limits.cache_salt_bytes_max;
    match salt.map(str::len) {
        Some(0) => Err(FieldError::new(Field::CacheSalt, "must not be empty")),
        Some(bytes) if bytes > bytes_max => {
            let cause = format!("has {bytes} bytes, at most {bytes_max} are taken");
            Err(FieldError::new(Field::CacheSalt, cause))
        }
        _ => Ok(()),
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

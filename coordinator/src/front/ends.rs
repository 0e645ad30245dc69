//! What ends an answer, and from which token on: the model's end tokens, and the stop strings and
//! stop tokens of the request. Pure.

use super::error::{Field, FieldError};
use super::info::{CoreLimits, ModelInfo, STOP_TOKENS_MAX};
use crate::sched::LeastTokens;
use crate::text::StopReason;
use binfer_proto::{Mask, Token};
use std::sync::Arc;

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

/// Refuses too many stop tokens, and those that the model does not have.
pub(super) fn stop_tokens(tokens: &[Token], model: &ModelInfo) -> Result<(), FieldError> {
    let refused = |cause| Err(FieldError::new(Field::StopTokens, cause));
    if tokens.len() > STOP_TOKENS_MAX {
        let count = tokens.len();
        return refused(format!("has {count} tokens, at most {STOP_TOKENS_MAX} are taken"));
    }
    match tokens.iter().find(|token| **token >= model.vocab) {
        None => Ok(()),
        Some(token) => {
            let vocab = model.vocab;
            refused(format!("holds token {token}, which is not below the vocabulary of {vocab}"))
        }
    }
}

/// The tokens that end an answer.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) ids: Arc<[Token]>,
    /// No token ends it.
    pub(super) ignored: bool,
    /// Those that the request named, with what it called them.
    pub(super) names: Vec<(Token, StopReason)>,
}

impl Ends {
    /// The model's `own` unless they are ignored, and the request's: stop tokens, and stop strings
    /// that name a control token (`controls`), which no text shows.
    pub(super) fn new(
        own: &Arc<[Token]>,
        ignore_eos: bool,
        tokens: &[Token],
        controls: Vec<(Token, String)>,
    ) -> Self {
        let controls = controls.into_iter().map(|(token, text)| (token, StopReason::Text(text)));
        let tokens = tokens.iter().map(|token| (*token, StopReason::Token(*token)));
        let named: Vec<(Token, StopReason)> = controls.chain(tokens).collect();
        if named.is_empty() {
            return Self { ids: Arc::clone(own), ignored: ignore_eos, names: named };
        }
        let own: &[Token] = if ignore_eos { &[] } else { own };
        let ids = named.iter().map(|(token, _)| token).chain(own).copied().collect();
        // As in vLLM, an end token of the model's own is no reason that a client named.
        let names = named.into_iter().filter(|(token, _)| !own.contains(token)).collect();
        Self { ids, ignored: false, names }
    }

    /// What keeps an answer from ending with one of its first `min_tokens` tokens.
    pub(super) fn least(
        &self,
        min_tokens: u32,
        max_tokens: u32,
        vocab: u32,
    ) -> Result<Option<LeastTokens>, FieldError> {
        let refused = |cause| Err(FieldError::new(Field::MinTokens, cause));
        if min_tokens > max_tokens {
            return refused(format!("is {min_tokens}, and the answer has {max_tokens} at most"));
        }
        if min_tokens == 0 || self.ignored || self.ids.is_empty() {
            return Ok(None);
        }
        let mut bits = Mask::of(0, vocab, 0..vocab).bits;
        for token in self.ids.iter().filter(|token| **token < vocab) {
            bits[*token as usize / 8] &= !(1 << (token % 8));
        }
        if bits.iter().all(|byte| *byte == 0) {
            return refused("leaves nothing to sample: every token ends the answer".into());
        }
        Ok(Some(LeastTokens { tokens: min_tokens, allowed: bits.into() }))
    }
}

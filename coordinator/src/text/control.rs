//! Control tokens inside messages, read as text (`--split-special-tokens`).
//!
//! A template writes control tokens of its own around messages, and those must be parsed. So before
//! the template runs, everything in a message that looks like a control token gets a mark inside
//! it, over which no tokenizer reads. The marks are removed after the search for control tokens.
//! The rest is tokenised as one text, as if no control token were known in it.

use super::error::TextError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use tokenizers::{Model, OffsetType, PreTokenizer, Tokenizer};

/// The mark: a noncharacter, which Unicode reserves for use within a program.
const MARK: char = '\u{FDD0}';

/// Finds control tokens in messages.
#[derive(Debug)]
pub(super) struct ControlText {
    /// The control tokens by their first character.
    tokens: BTreeMap<char, Vec<String>>,
}

impl ControlText {
    pub(super) fn new(tokenizer: &Tokenizer) -> Self {
        let mut tokens: BTreeMap<char, Vec<String>> = BTreeMap::new();
        let added = tokenizer.get_added_tokens_decoder();
        for token in added.into_values().filter(|token| token.special) {
            // A mark does not fit inside a single character.
            if let Some(first) = token.content.chars().next()
                && token.content.len() > first.len_utf8()
            {
                tokens.entry(first).or_default().push(token.content);
            }
        }
        Self { tokens }
    }

    /// `value` with a mark in every control token of its texts. Names of fields stay as they are.
    pub(super) fn marked<T: Serialize + DeserializeOwned>(
        &self,
        value: &T,
    ) -> Result<T, TextError> {
        let wrong = |error: serde_json::Error| TextError::Data(error.to_string());
        let mut value = serde_json::to_value(value).map_err(wrong)?;
        self.mark(&mut value);
        serde_json::from_value(value).map_err(wrong)
    }

    fn mark(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.mark_text(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.mark(value)),
            Value::Object(fields) => fields.values_mut().for_each(|value| self.mark(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn mark_text(&self, text: &str) -> String {
        let text = text.replace(MARK, "");
        let mut marked = String::with_capacity(text.len());
        for (at, first) in text.char_indices() {
            marked.push(first);
            let tokens = self.tokens.get(&first);
            if tokens.is_some_and(|tokens| tokens.iter().any(|token| text[at..].starts_with(token)))
            {
                marked.push(MARK);
            }
        }
        marked
    }

    /// The tokens of a rendered conversation, from which the marks are removed. `add_special` puts
    /// those around it that the tokenizer adds to texts.
    pub(super) fn encode(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        add_special: bool,
    ) -> tokenizers::Result<Vec<u32>> {
        let added = tokenizer.get_added_vocabulary();
        let mut pieces = added.extract_and_normalize(tokenizer.get_normalizer(), text);
        pieces.normalize(|piece| piece.replace(MARK, ""))?;
        if let Some(splitter) = tokenizer.get_pre_tokenizer() {
            splitter.pre_tokenize(&mut pieces)?;
        }
        tokenizer.get_model().tokenize_in_pretokenized(&mut pieces, None)?;
        let mut encoding = pieces.into_encoding(None, 0, OffsetType::None)?;
        if add_special {
            encoding = tokenizer.post_process(encoding, None, true)?;
        }
        Ok(encoding.get_ids().to_vec())
    }
}

/// The length of a rendered conversation without its marks, in bytes.
pub(super) fn unmarked_bytes(text: &str) -> usize {
    text.len() - text.matches(MARK).count() * MARK.len_utf8()
}

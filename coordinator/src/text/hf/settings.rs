//! What stands beside tokenizer.json: special tokens.

use super::files::{Folder, Object};
use super::generation::Generation;
use crate::text::TextError;
use binfer_proto::Token;
use serde_json::Value;
use tokenizers::AddedToken;

/// Everything that the other files say about text.
pub(super) struct Settings {
    pub(super) bos: Option<String>,
    pub(super) eos: Option<String>,
    /// Whether a plain prompt begins with `bos`; `None` leaves it to tokenizer.json.
    pub(super) add_bos: Option<bool>,
    /// Tokens that tokenizer.json may lack, by id.
    pub(super) added: Vec<(Token, AddedToken)>,
    pub(super) generation: Generation,
}

impl Settings {
    pub(super) fn read(folder: Folder<'_>) -> Result<Self, TextError> {
        let tokenizer = folder.object("tokenizer_config.json")?;
        if tokenizer.bool("add_eos_token")? == Some(true) {
            return Err(tokenizer.wrong("add_eos_token true is not supported"));
        }
        Ok(Self {
            bos: special(&tokenizer, "bos_token")?,
            eos: special(&tokenizer, "eos_token")?,
            add_bos: tokenizer.bool("add_bos_token")?,
            added: added(&tokenizer)?,
            generation: Generation::read(folder)?,
        })
    }
}

/// A token written as a string, or as an object with its `content`.
fn special(config: &Object<'_>, key: &str) -> Result<Option<String>, TextError> {
    config.typed(key, "a token", |value| {
        value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
    })
}

fn added(config: &Object<'_>) -> Result<Vec<(Token, AddedToken)>, TextError> {
    let key = "added_tokens_decoder";
    let tokens = config.typed(key, "an object of tokens by id", |value| {
        let entries = value.as_object()?.iter();
        entries.map(|(id, token)| Some((id.parse().ok()?, added_token(token)?))).collect()
    });
    let mut tokens: Vec<(Token, AddedToken)> = tokens?.unwrap_or_default();
    tokens.sort_by_key(|(id, _)| *id);
    Ok(tokens)
}

fn added_token(value: &Value) -> Option<AddedToken> {
    let flag = |key: &str| value.get(key).and_then(Value::as_bool).unwrap_or(false);
    let token = AddedToken::from(value.get("content")?.as_str()?, flag("special"));
    let token = token.single_word(flag("single_word")).normalized(flag("normalized"));
    Some(token.lstrip(flag("lstrip")).rstrip(flag("rstrip")))
}

//! Special tokens as transformers 5 finds them beside tokenizer.json.
//!
//! tokenizer_config.json comes first. Older ones do not list the added tokens; only then
//! special_tokens_map.json and added_tokens.json are read as well. `add_bos_token` and
//! `add_eos_token` have no effect, because tokenizer.json decides what begins and ends a prompt.

use super::error::TokenizerFileError;
use super::files::{JsonFile, ModelFolder};
use crate::text::TextError;
use binfer_proto::Token;
use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

/// The names that every tokenizer may have.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What the files say of special tokens.
pub(super) struct SpecialTokenFiles {
    pub(super) eos: Option<String>,
    /// Tokens with their ids and flags, which override those of tokenizer.json.
    added: Vec<(Token, AddedToken)>,
    /// Tokens with their ids, which hold only where tokenizer.json does not list them.
    missing: Vec<(Token, AddedToken)>,
    /// Tokens that are special in any case.
    named: Vec<String>,
    /// Tokens that are special if tokenizer.json does not list them.
    extra: Vec<String>,
}

impl SpecialTokenFiles {
    pub(super) fn read(folder: ModelFolder<'_>) -> Result<Self, TextError> {
        let config = folder.object("tokenizer_config.json")?;
        let added = config.typed("added_tokens_decoder", "an object of tokens by id", by_id)?;
        let is_old = added.is_none();
        let map = if is_old { Some(folder.object("special_tokens_map.json")?) } else { None };
        let from_map = |key: &str| map.as_ref().map_or(Ok(None), |map| token(map, key));
        let mut names: Vec<&str> = NAMED.into();
        names.extend(keys(&config).filter(|key| key.ends_with("_token") && !NAMED.contains(key)));
        let mut named = Vec::new();
        for key in names {
            // Under other names only texts are tokens; `add_bos_token` is not.
            let known = NAMED.contains(&key);
            if !known && config.get(key).and_then(content).is_none() {
                continue;
            }
            let found = if known { from_map(key)? } else { None };
            let found = found.map_or_else(|| token(&config, key), |found| Ok(Some(found)))?;
            named.extend(found.map(|found| (key.to_owned(), found)));
        }
        let eos = named.iter().find(|(key, _)| key == "eos_token");
        let eos = eos.map(|(_, content)| content.clone());
        let mut named: Vec<String> = named.into_iter().map(|(_, content)| content).collect();
        let (more, extra) = extra(&config, map.as_ref())?;
        named.extend(more);
        let missing = if is_old { added_tokens(folder, &named, &extra)? } else { Vec::new() };
        Ok(Self { eos, added: added.unwrap_or_default(), missing, named, extra })
    }

    /// Adds the tokens that only these files name to `tokenizer`, and makes special those that they
    /// call special.
    pub(super) fn apply(&self, tokenizer: &mut Tokenizer) -> Result<(), TokenizerFileError> {
        let listed = |tokenizer: &Tokenizer, content: &str| {
            let added = tokenizer.get_added_vocabulary();
            let id = added.get_vocab().get(content)?;
            added.get_added_tokens_decoder().get(id).cloned()
        };
        let missing =
            self.missing.iter().filter(|(_, token)| listed(tokenizer, &token.content).is_none());
        let with_ids: Vec<&(Token, AddedToken)> = missing.chain(&self.added).collect();
        let tokens = with_ids.iter().map(|(_, token)| token.clone()).collect::<Vec<_>>();
        tokenizer.add_tokens(tokens)?;
        with_ids.iter().try_for_each(|(id, token)| check_id(tokenizer, &token.content, *id))?;
        let mut special = Vec::new();
        for (content, in_any_case) in (self.named.iter().map(|content| (content, true)))
            .chain(self.extra.iter().map(|content| (content, false)))
        {
            match listed(tokenizer, content) {
                Some(token) if in_any_case => special.push(AddedToken { special: true, ..token }),
                // A token that the vocabulary does not have stays text.
                None if tokenizer.token_to_id(content).is_some() => {
                    special.push(AddedToken::from(content.clone(), true));
                }
                _ => {}
            }
        }
        tokenizer.add_tokens(special)?;
        Ok(())
    }
}

/// Checks the id of an added token, since the library numbers added tokens anew where ids leave a
/// gap.
pub(super) fn check_id(
    tokenizer: &Tokenizer,
    content: &str,
    id: Token,
) -> Result<(), TokenizerFileError> {
    let found = tokenizer.token_to_id(content);
    if found == Some(id) {
        return Ok(());
    }
    Err(TokenizerFileError::OtherId { content: content.to_owned(), found, listed: id })
}

fn keys<'a>(file: &'a JsonFile<'_>) -> impl Iterator<Item = &'a str> {
    file.fields().map(|(key, _)| key.as_str())
}

/// A token written as a string, or as an object with its `content`.
fn token(file: &JsonFile<'_>, key: &str) -> Result<Option<String>, TextError> {
    file.typed(key, "a token", content)
}

fn content(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// The tokens without names: first those that are special in any case, then the others.
fn extra(
    config: &JsonFile<'_>,
    map: Option<&JsonFile<'_>>,
) -> Result<(Vec<String>, Vec<String>), TextError> {
    const NEW: &str = "extra_special_tokens";
    const OLD: &str = "additional_special_tokens";
    let list = |file: &JsonFile<'_>, key: &str| {
        let found = file.typed(key, "tokens", |value| match value {
            Value::Object(_) => Some(Vec::new()),
            list => list.as_array()?.iter().map(content).collect(),
        });
        found.map(Option::unwrap_or_default)
    };
    let mut named = Vec::new();
    let mut all = list(config, NEW)?;
    for file in [Some(config), map].into_iter().flatten() {
        let by_name = file.get(NEW).and_then(Value::as_object);
        named.extend(by_name.into_iter().flat_map(Map::values).filter_map(content));
    }
    if all.is_empty() {
        all = list(config, OLD)?;
    }
    if let Some(map) = map {
        if all.is_empty() {
            all = list(map, OLD)?;
        }
        all.extend(list(map, NEW)?);
    }
    Ok((named, all))
}

fn by_id(value: &Value) -> Option<Vec<(Token, AddedToken)>> {
    let entries = value.as_object()?.iter();
    let tokens = entries.map(|(id, token)| Some((id.parse().ok()?, added_token(token)?)));
    let mut tokens = tokens.collect::<Option<Vec<(Token, AddedToken)>>>()?;
    tokens.sort_by_key(|(id, _)| *id);
    Some(tokens)
}

fn added_token(value: &Value) -> Option<AddedToken> {
    let flag = |key: &str| value.get(key).and_then(Value::as_bool).unwrap_or(false);
    let token = AddedToken::from(value.get("content")?.as_str()?, flag("special"));
    let token = token.single_word(flag("single_word")).normalized(flag("normalized"));
    Some(token.lstrip(flag("lstrip")).rstrip(flag("rstrip")))
}

/// The tokens of added_tokens.json by rising id.
fn added_tokens(
    folder: ModelFolder<'_>,
    named: &[String],
    extra: &[String],
) -> Result<Vec<(Token, AddedToken)>, TextError> {
    let file = folder.object("added_tokens.json")?;
    let mut tokens = Vec::new();
    for key in keys(&file) {
        let id = file.typed(key, "a token id", |value| Token::try_from(value.as_u64()?).ok())?;
        let is_special = named.iter().chain(extra).any(|special| special == key);
        let token = AddedToken::from(key, is_special);
        tokens.extend(id.map(|id| (id, token)));
    }
    tokens.sort_by_key(|(id, _)| *id);
    Ok(tokens)
}

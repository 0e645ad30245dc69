//! The chat template of a folder, and the names that templates have for its special tokens, both as
//! transformers reads them.

use super::files::{JsonFile, ModelFolder};
use crate::text::{ChatTemplate, SpecialTokens, TextError};
use serde_json::Value;

/// The folder in which transformers keeps templates with other names than "default".
const NAMED: &str = "additional_chat_templates";

/// The folder's chat template, if it has one. A file that cannot be read makes a template that
/// tells so, and no error, since the model may still serve completions.
pub(super) fn template(folder: ModelFolder<'_>) -> Result<Option<ChatTemplate>, TextError> {
    let config = folder.object("tokenizer_config.json")?;
    match source(folder, &config) {
        Ok(None) => Ok(None),
        Ok(Some(source)) => Ok(Some(ChatTemplate::new(&source, special_tokens(&config, folder)?))),
        Err(error) => Ok(Some(ChatTemplate::broken(error.to_string()))),
    }
}

/// The source of the template. A file of its own comes before the settings.
fn source(folder: ModelFolder<'_>, config: &JsonFile<'_>) -> Result<Option<String>, TextError> {
    for name in ["chat_template.jinja".to_owned(), format!("{NAMED}/default.jinja")] {
        if let Some(source) = folder.text(&name)? {
            return Ok(Some(source));
        }
    }
    let key = "chat_template";
    match config.get(key) {
        Some(Value::Array(named)) => {
            let name = |entry: &Value| Some(entry.get("name")?.as_str()?.to_owned());
            let found = named.iter().find(|entry| name(entry).as_deref() == Some("default"));
            let found = found.or_else(|| named.first().filter(|_| named.len() == 1));
            let source = found.and_then(|entry| owned(entry.get("template")?));
            let missing = || {
                let names: Vec<String> = named.iter().filter_map(name).collect();
                let names = names.join(", ");
                config.wrong(format!("chat_template has none named \"default\", but {names}"))
            };
            source.ok_or_else(missing).map(Some)
        }
        Some(_) => config.typed(key, "a string or named templates", owned),
        None => folder.object("chat_template.json")?.typed(key, "a string", owned),
    }
}

fn owned(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// All special tokens by name. The older file is read only where the newer list of tokens is
/// missing.
fn special_tokens(
    config: &JsonFile<'_>,
    folder: ModelFolder<'_>,
) -> Result<SpecialTokens, TextError> {
    let mut special = SpecialTokens::new();
    if config.get("added_tokens_decoder").is_none() {
        let older = folder.object("special_tokens_map.json")?;
        special.extend(older.fields().filter_map(named_token));
    }
    special.extend(config.fields().filter_map(named_token));
    for key in ["extra_special_tokens", "model_specific_special_tokens"] {
        let own = config.get(key).and_then(Value::as_object);
        let own = own.into_iter().flatten();
        special.extend(own.filter_map(|(name, token)| Some((name.clone(), content(token)?))));
    }
    Ok(special)
}

fn named_token((name, token): (&String, &Value)) -> Option<(String, String)> {
    name.ends_with("_token").then(|| content(token)).flatten().map(|token| (name.clone(), token))
}

/// The token of a setting, which is a string or an object with its `content`.
fn content(token: &Value) -> Option<String> {
    owned(token).or_else(|| owned(token.get("content")?))
}

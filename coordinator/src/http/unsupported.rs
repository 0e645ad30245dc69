//! Fields that would change the answer and are not in this version: refused by name, never
//! ignored. A value that asks for nothing is fine.

use super::error::ApiError;
use super::fields::Fields;
use serde_json::Value;

/// Values of a field that ask for nothing. `null` always does.
enum Neutral {
    Null,
    /// `false`.
    No,
    /// `true`.
    Yes,
    Number(f64),
    /// An empty string, array or object.
    Empty,
    /// One of these strings.
    Text(&'static [&'static str]),
}

use Neutral::{Empty, No, Null, Number, Text, Yes};

const BOTH: [(&str, Neutral); 17] = [
    ("n", Number(1.0)),
    ("min_tokens", Number(0.0)),
    ("length_penalty", Number(1.0)),
    ("use_beam_search", No),
    ("stop_token_ids", Empty),
    ("include_stop_str_in_output", No),
    ("skip_special_tokens", Yes),
    ("spaces_between_special_tokens", Yes),
    ("allowed_token_ids", Null),
    ("bad_words", Empty),
    ("prompt_logprobs", Null),
    ("truncate_prompt_tokens", Null),
    ("guided_json", Null),
    ("guided_regex", Null),
    ("guided_choice", Null),
    ("guided_grammar", Null),
    ("structured_outputs", Null),
];

const COMPLETION: [(&str, Neutral); 4] =
    [("best_of", Number(1.0)), ("echo", No), ("suffix", Empty), ("prompt_embeds", Null)];

const CHAT: [(&str, Neutral); 14] = [
    ("tools", Empty),
    ("tool_choice", Text(&["none", "auto"])),
    ("functions", Empty),
    ("function_call", Text(&["none", "auto"])),
    ("audio", Null),
    ("prediction", Null),
    ("web_search_options", Null),
    ("documents", Empty),
    ("chat_template", Null),
    ("chat_template_kwargs", Empty),
    ("add_generation_prompt", Yes),
    ("continue_final_message", No),
    ("add_special_tokens", No),
    ("echo", No),
];

pub(super) fn refuse_completion(fields: Fields<'_>) -> Result<(), ApiError> {
    refuse(fields, BOTH.iter().chain(&COMPLETION))
}

pub(super) fn refuse_chat(fields: Fields<'_>) -> Result<(), ApiError> {
    refuse(fields, BOTH.iter().chain(&CHAT))?;
    if let Some(format) = fields.object("response_format")?
        && format.string("type")? != Some("text")
    {
        return Err(not_yet("response_format"));
    }
    match fields.array("modalities")? {
        Some(kinds) if kinds.iter().any(|kind| kind.as_str() != Some("text")) => {
            Err(not_yet("modalities"))
        }
        _ => Ok(()),
    }
}

fn refuse<'a>(
    fields: Fields<'_>,
    table: impl Iterator<Item = &'a (&'static str, Neutral)>,
) -> Result<(), ApiError> {
    for (name, neutral) in table {
        if fields.get(name).is_some_and(|value| !neutral.is(value)) {
            return Err(not_yet(name));
        }
    }
    Ok(())
}

fn not_yet(name: &str) -> ApiError {
    ApiError::invalid(name, format!("this value of {name} is not in this version"))
}

impl Neutral {
    fn is(&self, value: &Value) -> bool {
        match self {
            Null => false,
            No => value.as_bool() == Some(false),
            Yes => value.as_bool() == Some(true),
            Number(number) => value.as_f64() == Some(*number),
            Empty => match value {
                Value::String(text) => text.is_empty(),
                Value::Array(items) => items.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                _ => false,
            },
            Text(texts) => value.as_str().is_some_and(|text| texts.contains(&text)),
        }
    }
}

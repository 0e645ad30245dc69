//! Fields that other servers know, and fields of OpenAI's that this version lacks. They are
//! refused, since to ignore one would be to give another answer than was asked for.
//!
//! They are those of OpenAI, vLLM, SGLang, TGI, llama.cpp, Ollama, text-generation-webui and
//! transformers.

use serde_json::Value;

/// A field that is refused unless its value asks for nothing.
pub(super) struct RefusedField {
    pub(super) name: &'static str,
    /// Values that ask for nothing, in a JSON array. `null` always does.
    pub(super) neutral: &'static str,
    pub(super) instead: Advice,
}

/// What to do instead of using the field.
#[derive(Clone, Copy)]
pub(super) enum Advice {
    /// Use this field of ours.
    UseField(&'static str),
    /// Do as this sentence says.
    Do(&'static str),
    /// Nothing: the field asks for this, which is not supported.
    Unsupported(&'static str),
}

impl RefusedField {
    /// Whether a value asks for nothing.
    pub(super) fn is_neutral(&self, value: &Value) -> bool {
        let neutral: Vec<Value> = serde_json::from_str(self.neutral).unwrap_or_default();
        let equals = |other: &Value| match (value.as_f64(), other.as_f64()) {
            (Some(one), Some(other)) => one == other,
            _ => value == other,
        };
        value.is_null() || neutral.iter().any(equals)
    }

    /// What to do instead, in a sentence. `place` is the field's path in the request.
    pub(super) fn advice(&self, place: &str) -> String {
        match self.instead {
            Advice::UseField(ours) => format!("{place} is not known here: use {ours}"),
            Advice::Do(this) => format!("{place} is refused: {this}"),
            Advice::Unsupported(what) => {
                format!("{place} is refused: this version of binfer does not support {what}")
            }
        }
    }
}

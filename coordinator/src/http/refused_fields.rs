//! Fields that other servers know, and those of OpenAI's that this version lacks: refused, since to
//! ignore one would be to give another answer than was asked for.
//!
//! OpenAI, vLLM, SGLang, TGI, llama.cpp, Ollama, text-generation-webui and transformers were looked
//! through.

use serde_json::Value;

/// A field that is refused unless its value asks for nothing.
pub(super) struct RefusedField {
    pub(super) name: &'static str,
    /// Values that ask for nothing, in a JSON array. `null` always does.
    pub(super) neutral: &'static str,
    pub(super) instead: Advice,
}

/// What to do instead.
#[derive(Clone, Copy)]
pub(super) enum Advice {
    /// Use this field.
    UseField(&'static str),
    /// Do as this sentence says.
    Do(&'static str),
    /// Nothing: this is what is meant, and not there.
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

    /// What to do instead, in a sentence.
    pub(super) fn advice(&self) -> String {
        let name = self.name;
        match self.instead {
            Advice::UseField(ours) => format!("{name} is not known here: use {ours}"),
            Advice::Do(this) => format!("{name} is refused: {this}"),
            Advice::Unsupported(what) => {
                format!("{name} is refused: this version of binfer does not support {what}")
            }
        }
    }
}

//! Fields that other servers know, and those of OpenAI's that this version lacks: refused, since to
//! ignore one would be to give another answer than was asked for.
//!
//! OpenAI, vLLM, SGLang, TGI, llama.cpp, Ollama, text-generation-webui and transformers were looked
//! through.

use super::foreign_names::{CHAT, COMPLETION, EVERYWHERE, OTHER_NAMES};
use serde_json::Value;

/// A field that is refused unless its value asks for nothing.
pub(super) struct Foreign {
    pub(super) name: &'static str,
    /// Values that ask for nothing, in a JSON array. `null` always does.
    pub(super) neutral: &'static str,
    pub(super) instead: Instead,
}

/// What to do instead.
#[derive(Clone, Copy)]
pub(super) enum Instead {
    /// Use this field.
    Use(&'static str),
    /// Do as this sentence says.
    Do(&'static str),
    /// Nothing: this is what is meant, and not there.
    Lacks(&'static str),
}

/// Those of completions.
pub(super) fn of_completions() -> impl Iterator<Item = &'static Foreign> {
    OTHER_NAMES.iter().chain(EVERYWHERE).chain(COMPLETION)
}

/// Those of chats.
pub(super) fn of_chats() -> impl Iterator<Item = &'static Foreign> {
    OTHER_NAMES.iter().chain(EVERYWHERE).chain(CHAT)
}

impl Foreign {
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
            Instead::Use(ours) => format!("{name} is not known here: use {ours}"),
            Instead::Do(this) => format!("{name} is refused: {this}"),
            Instead::Lacks(what) => {
                format!("{name} is refused: this version of binfer does not support {what}")
            }
        }
    }
}

//! Decisions about keys of settings that no reader of this crate understands.
//!
//! The tables list keys that change nothing about what a model computes, with the reason and the
//! values for which that holds. Another key refuses the model if its name looks as if it mattered.
//! All other keys are ignored, and the user is told. So a setting that matters is never ignored in
//! silence, and one that does not matter never refuses a model.

mod config_json;
mod gguf;
mod words;

use std::fmt::Display;
use std::path::Path;

use serde_json::Value;

pub(crate) use config_json::{ROPE_TABLE as CONFIG_JSON_ROPE, TABLE as CONFIG_JSON};
pub(crate) use gguf::{TABLE as GGUF, is_foreign};

use crate::error::listed;
use crate::gguf::MetadataValue as GgufValue;

/// A reason why keys change nothing, and these keys.
pub(crate) struct Reason {
    /// The reason, as a clause for messages: "KEY = VALUE (WHY)".
    why: &'static str,
    at: NoEffectAt,
    /// The keys, separated by white space.
    keys: &'static str,
}

impl Reason {
    fn is_for(&self, key: &str) -> bool {
        self.keys.split_whitespace().any(|known| known == key)
    }
}

/// The values at which a key changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoEffectAt {
    /// Every value.
    Any,
    /// Every value. The user is told, since an effect may be expected.
    AnyTold,
    /// False, 0 and empty values, which switch a feature off.
    Off,
    /// The number 1 and true.
    One,
    /// These words.
    Words(&'static [&'static str]),
    /// Lists of nothing but this word.
    AllAre(&'static str),
}

/// The value of a key, as far as the decision depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Setting<'a> {
    Flag(bool),
    Number(f64),
    Text(&'a str),
    /// A list.
    List(&'a [Value]),
    Other {
        empty: bool,
    },
}

impl<'a> From<&'a Value> for Setting<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Other { empty: true },
            Value::Bool(flag) => Self::Flag(*flag),
            Value::Number(number) => Self::Number(number.as_f64().unwrap_or(f64::NAN)),
            Value::String(text) => Self::Text(text),
            Value::Array(list) => Self::List(list),
            Value::Object(entries) => Self::Other { empty: entries.is_empty() },
        }
    }
}

impl<'a> From<&'a GgufValue> for Setting<'a> {
    fn from(value: &'a GgufValue) -> Self {
        match value {
            GgufValue::Unsigned(number) => Self::Number(*number as f64),
            GgufValue::Signed(number) => Self::Number(*number as f64),
            GgufValue::Float(number) => Self::Number(*number),
            GgufValue::Bool(flag) => Self::Flag(*flag),
            GgufValue::String(text) => Self::Text(text),
            GgufValue::Array(_) => Self::Other { empty: false },
        }
    }
}

impl NoEffectAt {
    fn holds(self, setting: Setting<'_>) -> bool {
        match (self, setting) {
            (Self::Any | Self::AnyTold, _) => true,
            (Self::Off, Setting::Flag(on)) => !on,
            (Self::Off, Setting::Number(number)) => number == 0.0,
            (Self::Off, Setting::Text(text)) => text.is_empty(),
            (Self::Off, Setting::List(list)) => list.is_empty(),
            (Self::Off, Setting::Other { empty }) => empty,
            (Self::One, Setting::Flag(on)) => on,
            (Self::One, Setting::Number(number)) => number == 1.0,
            (Self::Words(words), Setting::Text(text)) => words.contains(&text),
            (Self::AllAre(word), Setting::List(list)) => list.iter().all(|item| item == word),
            _ => false,
        }
    }
}

/// The decision about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The key is ignored in silence, since it changes nothing.
    Silent,
    /// The key is ignored, and the user is told, with the reason if there is one.
    Told(Option<&'static str>),
    /// The key refuses the model.
    Refused,
}

fn judge(table: &[Reason], key: &str, setting: Setting<'_>) -> Verdict {
    let mut known = table.iter().filter(|reason| reason.is_for(key)).peekable();
    if known.peek().is_none() {
        return if words::look_risky(key) { Verdict::Refused } else { Verdict::Told(None) };
    }
    match known.find(|reason| reason.at.holds(setting)) {
        Some(Reason { at: NoEffectAt::AnyTold, why, .. }) => Verdict::Told(Some(why)),
        Some(_) => Verdict::Silent,
        None => Verdict::Refused,
    }
}

/// Keys that nobody read, sorted by the decision about them.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    /// Keys to tell of, as "KEY = VALUE" or "KEY = VALUE (WHY)".
    pub(crate) ignored: Vec<String>,
    /// Keys that refuse the model, as "KEY = VALUE".
    pub(crate) refused: Vec<String>,
}

impl Unread {
    /// Adds a key. `shown` is key and value as messages show them.
    pub(crate) fn sort_in(
        &mut self,
        table: &[Reason],
        (key, setting): (&str, Setting<'_>),
        shown: impl Display,
    ) {
        match judge(table, key, setting) {
            Verdict::Silent => {}
            Verdict::Told(None) => self.ignored.push(shown.to_string()),
            Verdict::Told(Some(why)) => self.ignored.push(format!("{shown} ({why})")),
            Verdict::Refused => self.refused.push(shown.to_string()),
        }
    }
}

/// A line about the settings of a file that were ignored. Empty if there are none.
pub(crate) fn note(file: &Path, ignored: &[String]) -> Vec<String> {
    if ignored.is_empty() {
        return Vec::new();
    }
    vec![format!("{}: ignored, as without effect: {}", file.display(), listed(ignored))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_a_table_has_a_reason_and_no_value_has_two() {
        for table in [CONFIG_JSON, CONFIG_JSON_ROPE, GGUF] {
            for reason in table {
                assert!(!reason.why.is_empty() && !reason.keys.is_empty(), "{:?}", reason.keys);
                for key in reason.keys.split_whitespace() {
                    let same = |other: &&Reason| other.is_for(key) && other.at == reason.at;
                    assert_eq!(table.iter().filter(same).count(), 1, "{key}");
                    let always = table.iter().filter(|other| {
                        other.is_for(key)
                            && matches!(other.at, NoEffectAt::Any | NoEffectAt::AnyTold)
                    });
                    let rows = table.iter().filter(|other| other.is_for(key)).count();
                    assert!(rows == 1 || always.count() == 0, "{key} is fine at any value");
                }
            }
        }
    }

    #[test]
    fn a_known_key_is_fine_at_its_values_alone() {
        let verdict = |key, value: Value| judge(CONFIG_JSON, key, (&value).into());
        assert_eq!(verdict("residual_multiplier", 1.0.into()), Verdict::Silent);
        assert_eq!(verdict("residual_multiplier", 0.22.into()), Verdict::Refused);
        assert_eq!(verdict("num_experts", 0.into()), Verdict::Silent);
        assert_eq!(verdict("num_experts", 8.into()), Verdict::Refused);
        assert_eq!(verdict("transformers_version", "4.1".into()), Verdict::Silent);
        assert!(matches!(verdict("auto_map", Value::Null), Verdict::Told(Some(_))));
        assert_eq!(verdict("favourite_colour", "blue".into()), Verdict::Told(None));
        assert_eq!(verdict("attention_colour", false.into()), Verdict::Refused);
    }
}

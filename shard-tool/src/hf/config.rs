//! Typed access to `config.json`, with errors that name file and key.
//!
//! A null counts as an absent key. The families and what decoders share know which keys matter.
//! [`crate::keys`] decides about keys that nobody reads.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::text_file::not_json;
use crate::error::listed;
use crate::keys::{Reason, Unread, note};
use crate::{Error, ErrorKind};

/// An object of `config.json`: the whole file, or an object within it.
#[derive(Clone, Debug)]
pub(crate) struct ConfigJson {
    file: PathBuf,
    /// What stands before each key in messages: "" or "`rope_scaling`."
    within: String,
    entries: Map<String, Value>,
}

impl ConfigJson {
    pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Self, Error> {
        let entries = serde_json::from_slice(text).map_err(|error| not_json(path, &error))?;
        Ok(Self { file: path.to_path_buf(), within: String::new(), entries })
    }

    pub(crate) fn error(&self, kind: ErrorKind, cause: impl Into<String>) -> Error {
        Error::new(kind, cause).file(&self.file)
    }

    /// The folder of the file.
    pub(crate) fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(&self.file)
    }

    /// The value of a key. `None` if it is absent or null.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key).filter(|value| !value.is_null())
    }

    /// Whether a key is there, even if its value is null.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// All keys whose value is not null.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        let pairs = self.entries.iter().filter(|(_, value)| !value.is_null());
        pairs.map(|(key, value)| (key.as_str(), value))
    }

    /// The value that a getter below found, or an error that says that the key is missing.
    pub(crate) fn required<T>(
        &self,
        key: &str,
        found: Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let missing = || self.error(ErrorKind::Format, format!("{}{key} is missing", self.within));
        found?.ok_or_else(missing)
    }

    /// An integer, which may be written as a float.
    pub(crate) fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.typed(key, "an integer from 0 to 2^32 - 1", |value| {
            let whole = |x: &f64| x.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(x);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
            let float = || value.as_f64().filter(whole).map(|x| x as u64);
            value.as_u64().or_else(float).and_then(|value| u32::try_from(value).ok())
        })
    }

    /// An integer that goes by two names. Both may be there where they say the same.
    pub(crate) fn u32_of_either(&self, keys: [&str; 2]) -> Result<Option<u32>, Error> {
        let [key, other] = keys;
        match (self.u32(key)?, self.u32(other)?) {
            (Some(one), Some(two)) if one != two => {
                let within = &self.within;
                let cause = format!("{within}{key} {one}, {within}{other} {two}");
                Err(self.error(ErrorKind::Mismatch, cause))
            }
            (said, also) => Ok(said.or(also)),
        }
    }

    /// An integer above 0. An absent key is an error.
    pub(crate) fn positive(&self, key: &str) -> Result<u32, Error> {
        self.above_zero(key, self.u32(key))
    }

    /// An integer above 0 that a getter found. `key` is its name in errors.
    pub(crate) fn above_zero(
        &self,
        key: &str,
        found: Result<Option<u32>, Error>,
    ) -> Result<u32, Error> {
        match self.required(key, found)? {
            0 => Err(self.error(ErrorKind::Mismatch, format!("{}{key} is 0", self.within))),
            value => Ok(value),
        }
    }

    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>, Error> {
        self.typed(key, "a finite number", |value| value.as_f64().filter(|x| x.is_finite()))
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<&str>, Error> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(crate) fn strings(&self, key: &str) -> Result<Option<Vec<&str>>, Error> {
        self.typed(key, "a list of strings", |value| {
            value.as_array()?.iter().map(Value::as_str).collect()
        })
    }

    pub(crate) fn integers(&self, key: &str) -> Result<Option<Vec<u32>>, Error> {
        self.typed(key, "a list of integers", |value| {
            let integer = |value: &Value| u32::try_from(value.as_u64()?).ok();
            value.as_array()?.iter().map(integer).collect()
        })
    }

    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>, Error> {
        let within = format!("{}{key}.", self.within);
        self.typed(key, "an object", |value| {
            let entries = value.as_object()?.clone();
            Some(Self { file: self.file.clone(), within, entries })
        })
    }

    /// Refuses keys that are not `understood` and that matter, or may matter, by `table`. Returns
    /// the keys that are ignored and that the user should hear of, as "KEY = VALUE".
    pub(crate) fn judge(
        &self,
        understood: &[&[&str]],
        table: &[Reason],
    ) -> Result<Vec<String>, Error> {
        let known = |key: &str| understood.iter().any(|keys| keys.contains(&key));
        let mut unread = Unread::default();
        for (key, value) in self.iter().filter(|(key, _)| !known(key)) {
            unread.sort_in(table, (key, value.into()), self.shown(key, value));
        }
        if unread.refused.is_empty() {
            return Ok(unread.ignored);
        }
        Err(self.not_supported(&unread.refused))
    }

    /// A line about the settings that were ignored. Empty if there are none.
    pub(crate) fn note(&self, ignored: &[String]) -> Vec<String> {
        note(&self.file, ignored)
    }

    /// The error for settings that are not supported.
    pub(crate) fn not_supported(&self, settings: &[String]) -> Error {
        let cause = format!("settings that are not supported yet: {}", listed(settings));
        self.error(ErrorKind::Unsupported, cause)
    }

    /// Key and value as messages show them.
    pub(crate) fn shown(&self, key: &str, value: &Value) -> String {
        format!("{}{key} = {}", self.within, describe(value))
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| {
            let within = &self.within;
            let cause = format!("{within}{key} should be {wanted}, but is {}", describe(value));
            self.error(ErrorKind::Format, cause)
        })
    }
}

/// A value as messages show it.
fn describe(value: &Value) -> String {
    let text = value.to_string();
    let start: String = text.chars().take(40).collect();
    let more = if start.len() < text.len() { "..." } else { "" };
    format!("{start}{more}")
}

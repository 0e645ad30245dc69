//! Typed access to `config.json`, with errors that name file and key.
//!
//! A null is an absent key. Which keys matter is known by the table of dense models and the
//! families; what nobody knows is refused here, by name.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::not_json;
use crate::error::listed;
use crate::{Error, ErrorKind};

/// An object of a JSON file.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    file: PathBuf,
    /// Where in the file: "" or "`rope_scaling`."
    within: String,
    entries: Map<String, Value>,
}

impl Config {
    pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Self, Error> {
        let entries = serde_json::from_slice(text).map_err(|error| not_json(path, &error))?;
        Ok(Self { file: path.to_path_buf(), within: String::new(), entries })
    }

    pub(crate) fn error(&self, kind: ErrorKind, cause: impl Into<String>) -> Error {
        Error::new(kind, cause).file(&self.file)
    }

    /// The folder that it describes.
    pub(crate) fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(&self.file)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key).filter(|value| !value.is_null())
    }

    /// All keys that have a value.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        let pairs = self.entries.iter().filter(|(_, value)| !value.is_null());
        pairs.map(|(key, value)| (key.as_str(), value))
    }

    /// A key that must be there, out of what one of the getters below gave.
    pub(crate) fn required<T>(
        &self,
        key: &str,
        found: Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let missing = || self.error(ErrorKind::Format, format!("{}{key} is missing", self.within));
        found?.ok_or_else(missing)
    }

    pub(crate) fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.typed(key, "an integer from 0 to 2^32 - 1", |value| {
            value.as_u64().and_then(|value| u32::try_from(value).ok())
        })
    }

    /// An integer above 0 that must be there.
    pub(crate) fn positive(&self, key: &str) -> Result<u32, Error> {
        match self.required(key, self.u32(key))? {
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

    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>, Error> {
        let within = format!("{}{key}.", self.within);
        self.typed(key, "an object", |value| {
            let entries = value.as_object()?.clone();
            Some(Self { file: self.file.clone(), within, entries })
        })
    }

    /// One token id or several; none when absent.
    pub(crate) fn token_ids(&self, key: &str) -> Result<Vec<u32>, Error> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = self.typed(key, "a token id or a list of them", |value| match value {
            Value::Array(values) => values.iter().map(id).collect(),
            value => id(value).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    /// Refuses keys that are neither `understood` nor at a value without effect.
    pub(crate) fn refuse_unknown(
        &self,
        understood: &[&[&str]],
        without_effect: impl Fn(&str, &Value) -> bool,
    ) -> Result<(), Error> {
        let known = |key: &str| understood.iter().any(|keys| keys.contains(&key));
        let refused: Vec<String> = self
            .iter()
            .filter(|(key, value)| !known(key) && !without_effect(key, value))
            .map(|(key, value)| format!("{}{key} = {}", self.within, describe(value)))
            .collect();
        if refused.is_empty() {
            return Ok(());
        }
        let cause = format!("settings that are not supported yet: {}", listed(&refused));
        Err(self.error(ErrorKind::Unsupported, cause))
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

/// A value, for messages.
fn describe(value: &Value) -> String {
    let text = value.to_string();
    let start: String = text.chars().take(40).collect();
    let more = if start.len() < text.len() { "..." } else { "" };
    format!("{start}{more}")
}

//! Typed access to GGUF key-value pairs, with errors that name the key.
//!
//! Reading keeps whether a number is signed, unsigned or a float, but not its width, about which
//! writers disagree. A float never passes for an integer. `families` and the tokenizer know which
//! keys matter.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::{Error, ErrorKind};

/// The value of a metadata key.
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataValue {
    /// An integer of the types u8 to u64.
    Unsigned(u64),
    /// An integer of the types i8 to i64.
    Signed(i64),
    /// A float of the types f32 and f64.
    Float(f64),
    /// A boolean, stored as a byte of 0 or 1.
    Bool(bool),
    /// A UTF-8 string.
    String(String),
    /// An array of values of one type.
    Array(MetadataArray),
}

/// An array of values of one type. Arrays of arrays are refused, as ggml refuses them.
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataArray {
    /// Integers of one of the types u8 to u64.
    Unsigned(Vec<u64>),
    /// Integers of one of the types i8 to i64.
    Signed(Vec<i64>),
    /// Floats of the type f32 or f64.
    Float(Vec<f64>),
    /// Booleans, stored as bytes of 0 or 1.
    Bool(Vec<bool>),
    /// UTF-8 strings.
    String(Vec<String>),
}

impl MetadataValue {
    /// The value as messages show it.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Unsigned(value) => value.to_string(),
            Self::Signed(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::String(text) => {
                let start: String = text.chars().take(40).collect();
                let more = if start.len() < text.len() { "..." } else { "" };
                format!("{start:?}{more}")
            }
            Self::Array(array) => array.describe(),
        }
    }
}

impl MetadataArray {
    fn describe(&self) -> String {
        let (count, of) = match self {
            Self::Unsigned(values) => (values.len(), "unsigned integers"),
            Self::Signed(values) => (values.len(), "integers"),
            Self::Float(values) => (values.len(), "floats"),
            Self::Bool(values) => (values.len(), "booleans"),
            Self::String(values) => (values.len(), "strings"),
        };
        format!("an array of {count} {of}")
    }
}

/// All key-value pairs of a GGUF file.
#[derive(Clone, Debug)]
pub struct GgufMetadata {
    file: PathBuf,
    entries: BTreeMap<String, MetadataValue>,
}

impl GgufMetadata {
    pub(super) fn new(file: PathBuf, entries: BTreeMap<String, MetadataValue>) -> Self {
        Self { file, entries }
    }

    /// The value of a key, of whatever type.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&MetadataValue> {
        self.entries.get(key)
    }

    /// All pairs, in the order of keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &MetadataValue)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value that a getter below found, or an error that says that the key is missing.
    ///
    /// # Errors
    /// [`ErrorKind::Format`] if `found` is `None`, and the error of `found`.
    pub fn required<T>(&self, key: &str, found: Result<Option<T>, Error>) -> Result<T, Error> {
        found?.ok_or_else(|| {
            let cause = format!("metadata key {key} is missing");
            let way_out = "convert the model again with a current converter";
            Error::new(ErrorKind::Format, cause).file(&self.file).way_out(way_out)
        })
    }

    /// An integer of any type that fits 32 bits. `None` if the key is absent.
    ///
    /// # Errors
    /// [`ErrorKind::Format`] with key and value if the value is something else.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.typed(key, "an integer from 0 to 2^32 - 1", |value| match value {
            MetadataValue::Unsigned(value) => u32::try_from(*value).ok(),
            MetadataValue::Signed(value) => u32::try_from(*value).ok(),
            _ => None,
        })
    }

    /// A finite float. `None` if the key is absent.
    ///
    /// # Errors
    /// Those of [`Self::u32`].
    pub fn float(&self, key: &str) -> Result<Option<f64>, Error> {
        self.typed(key, "a finite float", |value| match value {
            MetadataValue::Float(value) if value.is_finite() => Some(*value),
            _ => None,
        })
    }

    /// A boolean. `None` if the key is absent.
    ///
    /// # Errors
    /// Those of [`Self::u32`].
    pub fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "a boolean", |value| match value {
            MetadataValue::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// A string. `None` if the key is absent.
    ///
    /// # Errors
    /// Those of [`Self::u32`].
    pub fn string(&self, key: &str) -> Result<Option<&str>, Error> {
        self.typed(key, "a string", |value| match value {
            MetadataValue::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An array of strings, such as tokens or merges. `None` if the key is absent.
    ///
    /// # Errors
    /// Those of [`Self::u32`].
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>, Error> {
        self.typed(key, "an array of strings", |value| match value {
            MetadataValue::Array(MetadataArray::String(texts)) => Some(texts.as_slice()),
            _ => None,
        })
    }

    /// An array of integers of any type, such as token types. `None` if the key is absent.
    ///
    /// # Errors
    /// Those of [`Self::u32`].
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, Error> {
        self.typed(key, "an array of integers", |value| match value {
            MetadataValue::Array(MetadataArray::Signed(values)) => Some(values.clone()),
            MetadataValue::Array(MetadataArray::Unsigned(values)) => {
                values.iter().map(|value| i64::try_from(*value).ok()).collect()
            }
            _ => None,
        })
    }

    /// An array of floats, such as token scores. `None` if the key is absent.
    ///
    /// # Errors
    /// Those of [`Self::u32`].
    pub fn floats(&self, key: &str) -> Result<Option<&[f64]>, Error> {
        self.typed(key, "an array of floats", |value| match value {
            MetadataValue::Array(MetadataArray::Float(values)) => Some(values.as_slice()),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        convert: impl FnOnce(&'a MetadataValue) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.entries.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| {
            let cause =
                format!("metadata key {key} should be {wanted}, but is {}", value.describe());
            Error::new(ErrorKind::Format, cause).file(&self.file)
        })
    }
}

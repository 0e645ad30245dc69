//! Files of a model's folder, read up to a bound. Every error begins with the file's name.

use crate::text::TextError;
use binfer_shard::files::open_within;
use serde_json::{Map, Value};
use std::io::{ErrorKind, Read};
use std::path::Path;

/// The bound of tokenizer.json; the largest known one has 35 MB.
const TOKENIZER_BYTES_MAX: u64 = 128 << 20;
/// The bound of other files; some tokenizer_config.json list thousands of added tokens.
const OTHER_BYTES_MAX: u64 = 16 << 20;
pub(super) const TOKENIZER: &str = "tokenizer.json";

/// A model's folder.
#[derive(Clone, Copy)]
pub(super) struct ModelFolder<'a>(pub(super) &'a Path);

impl<'a> ModelFolder<'a> {
    /// The content of a file; `None` if there is no such file.
    pub(super) fn bytes(self, name: &str) -> Result<Option<Vec<u8>>, TextError> {
        let failed = |error: std::io::Error| self.wrong(name, error.to_string());
        let file = match open_within(&self.0.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        let bytes_max = if name == TOKENIZER { TOKENIZER_BYTES_MAX } else { OTHER_BYTES_MAX };
        let mut bytes = Vec::new();
        file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(failed)?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > bytes_max {
            return Err(self.wrong(name, format!("longer than {bytes_max} bytes")));
        }
        Ok(Some(bytes))
    }

    /// The content of a text file; `None` if there is no such file.
    pub(super) fn text(self, name: &str) -> Result<Option<String>, TextError> {
        let Some(bytes) = self.bytes(name)? else { return Ok(None) };
        String::from_utf8(bytes).map(Some).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            self.wrong(name, format!("not UTF-8 at byte {at}"))
        })
    }

    /// The JSON object in a file; an empty one if there is no such file.
    pub(super) fn object(self, name: &'static str) -> Result<JsonFile<'a>, TextError> {
        let Some(bytes) = self.bytes(name)? else {
            return Ok(JsonFile { folder: self, name, fields: Map::new() });
        };
        let fields = serde_json::from_slice(&bytes)
            .map_err(|error| self.wrong(name, format!("not a JSON object: {error}")))?;
        Ok(JsonFile { folder: self, name, fields })
    }

    /// An error about a file of the folder.
    pub(super) fn wrong(self, name: &str, cause: impl Into<String>) -> TextError {
        TextError::File { file: self.0.join(name), cause: cause.into() }
    }
}

/// A file that holds a JSON object, in which `null` is the same as absent.
pub(super) struct JsonFile<'a> {
    folder: ModelFolder<'a>,
    name: &'static str,
    fields: Map<String, Value>,
}

impl JsonFile<'_> {
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    /// All fields.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.fields.iter()
    }

    /// Converts a field; `wanted` names the type for the error.
    pub(super) fn typed<T>(
        &self,
        key: &str,
        wanted: &str,
        convert: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, TextError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| self.wrong(format!("{key} is not {wanted}")))
    }

    /// Whether there is no such file, or nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// An error about this file.
    pub(super) fn wrong(&self, cause: impl Into<String>) -> TextError {
        self.folder.wrong(self.name, cause)
    }
}

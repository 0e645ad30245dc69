//! Typed reading of a JSON object, every error naming its field. `null` is as good as absent.

use super::error::ApiError;
use serde_json::{Map, Value};

/// The fields of a request.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(super) fn get(self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn bool(self, name: &str) -> Result<Option<bool>, ApiError> {
        self.typed(name, "true or false", Value::as_bool)
    }

    pub(super) fn string(self, name: &str) -> Result<Option<&'a str>, ApiError> {
        self.typed(name, "a string", Value::as_str)
    }

    pub(super) fn array(self, name: &str) -> Result<Option<&'a Vec<Value>>, ApiError> {
        self.typed(name, "an array", Value::as_array)
    }

    pub(super) fn object(self, name: &str) -> Result<Option<Fields<'a>>, ApiError> {
        self.typed(name, "an object", |value| value.as_object().map(Fields))
    }

    pub(super) fn number(self, name: &str) -> Result<Option<f32>, ApiError> {
        #[expect(clippy::cast_possible_truncation, reason = "too large is inf, refused later")]
        self.typed(name, "a number", |value| value.as_f64().map(|wide| wide as f32))
    }

    /// A whole number that fits 32 bits.
    pub(super) fn count(self, name: &str) -> Result<Option<u32>, ApiError> {
        self.typed(name, "a whole number from 0 to 4294967295", |value| {
            value.as_u64().and_then(|wide| u32::try_from(wide).ok())
        })
    }

    /// A whole number of 64 bits; negative ones are taken by their bits.
    pub(super) fn seed(self, name: &str) -> Result<Option<u64>, ApiError> {
        self.typed(name, "a whole number of 64 bits", |value| {
            value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned))
        })
    }

    fn typed<T>(
        self,
        name: &str,
        wanted: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| {
            ApiError::invalid(name, format!("{name} must be {wanted}, but is {}", kind(value)))
        })
    }
}

/// What a value is, without repeating it: it may be long, and it may be private.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a fractional number",
        Value::Number(_) => "another whole number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

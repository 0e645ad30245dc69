//! JSON of a request to typed values.
//!
//! An error names the field by its path and says what was expected. It never repeats a value, which
//! may be long and may be private.

use super::error::ApiError;
use axum::http::StatusCode;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use serde_path_to_error::{Path, Segment};
use std::fmt;
use std::marker::PhantomData;

/// The names of JSON's types in serde's errors, and in ours.
const KINDS: [(&str, &str); 7] = [
    ("null", "null"),
    ("boolean", "a boolean"),
    ("integer", "a whole number"),
    ("floating point", "a fractional number"),
    ("string", "a string"),
    ("sequence", "an array"),
    ("map", "an object"),
];

/// A value that must be written as an object. What serde derives would also take an array of the
/// fields in their order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ValueVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_any(ValueVisitor(PhantomData))
    }
}

/// Reads a body, which must be an object.
pub(super) fn parse<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let Object(value) = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| refused(Some(error.path()), error.inner()))?;
    json.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

/// The client's error for an error of serde's at a place.
pub(super) fn refused(path: Option<&Path>, error: &serde_json::Error) -> ApiError {
    if error.classify() != Category::Data {
        return not_json(error);
    }
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    let place = path.map(place).unwrap_or_default();
    // The path of a field of the object at this place.
    let inside = |name: &str| match place.as_str() {
        "" => name.to_owned(),
        place => format!("{place}.{name}"),
    };
    let quoted = |rest: &str| rest.trim_matches('`').to_owned();
    if let Some(name) = text.strip_prefix("missing field ") {
        let place = inside(&quoted(name));
        return ApiError::invalid(&place, format!("{place} is missing"));
    }
    if let Some(name) = text.strip_prefix("duplicate field ") {
        let place = inside(&quoted(name));
        return ApiError::invalid(&place, format!("{place} is there twice"));
    }
    // What was found stands in front and may hold anything, so the last such words are serde's.
    let what = match text.rsplit_once(", expected ") {
        Some((found, expected)) => format!("must be {expected}{}", found_kind(found)),
        None => text.to_owned(),
    };
    match path.filter(|_| !place.is_empty()) {
        None => ApiError::new(StatusCode::BAD_REQUEST, format!("the JSON body {what}")),
        Some(path) => ApiError::invalid(param(path, &place), format!("{place} {what}")),
    }
}

fn found_kind(found: &str) -> String {
    let kind = found.strip_prefix("invalid type: ").unwrap_or_default();
    let kind = KINDS.into_iter().find(|(name, _)| kind.starts_with(name));
    kind.map_or(String::new(), |(_, name)| format!(", but is {name}"))
}

fn not_json(error: &serde_json::Error) -> ApiError {
    let (line, column) = (error.line(), error.column());
    let what = match error.classify() {
        Category::Eof => "ends too early",
        _ => "is wrong",
    };
    let message = format!("the body is not JSON: it {what} at line {line}, column {column}");
    ApiError::new(StatusCode::BAD_REQUEST, message)
}

/// The path, as far as it consists of names of the API.
fn place(path: &Path) -> String {
    let mut place = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => place.push_str(&format!("[{index}]")),
            Segment::Map { key } if is_field(key) => {
                place.push_str(if place.is_empty() { "" } else { "." });
                place.push_str(key);
            }
            _ => break,
        }
    }
    place
}

fn is_field(key: &str) -> bool {
    key.len() <= 32 && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// The value of `param`. As OpenAI has it, the elements of a list of numbers or strings are not
/// named.
fn param(path: &Path, place: &str) -> String {
    match path.iter().collect::<Vec<_>>().as_slice() {
        [Segment::Map { key }, Segment::Seq { .. }, ..] if key != "messages" => key.clone(),
        _ => place.to_owned(),
    }
}

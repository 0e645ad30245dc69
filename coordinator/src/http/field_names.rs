//! The names of a request's fields: ours, others that are known, slips of the pen, and strangers.

use super::endpoint::Endpoint;
use super::error::ApiError;
use super::json;
use super::json_shallow::ShallowValue;
use super::refused_field_table::{self, WITHOUT_EFFECT};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// Fields that are read, in both kinds of request.
const BOTH: [&str; 18] = [
    "model",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "ignore_eos",
    "user",
];
const COMPLETION: [&str; 1] = ["prompt"];
const CHAT: [&str; 2] = ["messages", "top_logprobs"];

/// Strangers of one request that are told.
const UNKNOWN_FIELDS_MAX: usize = 8;
/// A longer name is no slip of the pen.
const NAME_BYTES_MAX: usize = 64;

/// Fields that are read.
pub(super) fn known(endpoint: Endpoint) -> impl Iterator<Item = &'static str> {
    let own: &[&str] = match endpoint {
        Endpoint::Completion => &COMPLETION,
        Endpoint::Chat => &CHAT,
    };
    BOTH.iter().chain(own).copied()
}

/// Refuses a request with a field that would change its answer and is not read. Returns names that
/// nobody knows.
pub(super) fn check(body: &[u8], endpoint: Endpoint) -> Result<Vec<String>, ApiError> {
    let mut names = FieldCheck { endpoint, unknown_fields: Vec::new(), refused: None };
    let read = serde_json::Deserializer::from_slice(body).deserialize_map(&mut names);
    read.map_err(|error| json::refused(None, &error))?;
    match names.refused {
        Some(error) => Err(error),
        None => Ok(names.unknown_fields),
    }
}

struct FieldCheck {
    endpoint: Endpoint,
    unknown_fields: Vec<String>,
    refused: Option<ApiError>,
}

impl FieldCheck {
    fn see(&mut self, name: &str, value: Option<&Value>) {
        if WITHOUT_EFFECT.contains(&name) {
            return;
        }
        if let Some(field) = refused_field_table::of(self.endpoint).find(|field| field.name == name)
        {
            if !value.is_some_and(|value| field.is_neutral(value)) {
                self.refused = Some(ApiError::invalid(name, field.advice()));
            }
            return;
        }
        if let Some(meant) = meant(name, self.endpoint) {
            let message = format!("{name} is not known here: did you mean {meant}?");
            self.refused = Some(ApiError::invalid(name, message));
            return;
        }
        if self.unknown_fields.len() < UNKNOWN_FIELDS_MAX {
            self.unknown_fields.push(name.chars().take(NAME_BYTES_MAX).collect());
        }
    }
}

impl<'de> Visitor<'de> for &mut FieldCheck {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if self.refused.is_some() || known(self.endpoint).any(|known| known == name) {
                map.next_value::<IgnoredAny>()?;
            } else {
                let value = map.next_value_seed(ShallowValue::new())?;
                self.see(&name, value.as_ref());
            }
        }
        Ok(())
    }
}

/// The field that was probably meant.
fn meant(name: &str, endpoint: Endpoint) -> Option<&'static str> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace(['_', '-', ' '], "");
    let (written, own) = (plain(name), || known(endpoint));
    // Short names are near to many words.
    let slips_max = match name.len() {
        0..5 => 0,
        5..8 => 1,
        _ => 2,
    };
    let near = |ours: &&str| strsim::osa_distance(name, ours) <= slips_max;
    own().find(|ours| plain(ours) == written).or_else(|| own().find(near))
}

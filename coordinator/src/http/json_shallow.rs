//! A JSON value of which only the smallest forms are kept. It may be as long as the body.

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// Longer strings are not kept.
const TEXT_BYTES_MAX: usize = 16;

/// Reads a value and keeps a scalar, or an array or object of at most one element. Anything larger
/// becomes `None`.
pub(super) struct ShallowValue {
    /// Whether the element of an array or object is read.
    inside: bool,
}

impl ShallowValue {
    pub(super) fn new() -> Self {
        Self { inside: true }
    }

    fn deeper() -> Self {
        Self { inside: false }
    }
}

impl<'de> DeserializeSeed<'de> for ShallowValue {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Option<Value>, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ShallowValue {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Option<Value>, E> {
        Ok(Some(Value::Null))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Option<Value>, E> {
        Ok(Some(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Option<Value>, E> {
        Ok(Some(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Option<Value>, E> {
        Ok(Some(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Option<Value>, E> {
        Ok(Some(value.into()))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Option<Value>, E> {
        Ok((text.len() <= TEXT_BYTES_MAX).then(|| text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Option<Value>, A::Error> {
        let mut all = Some(Vec::new());
        if self.inside
            && let Some(first) = seq.next_element_seed(Self::deeper())?
        {
            all = first.map(|first| vec![first]);
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {
            all = None;
        }
        Ok(all.map(Value::Array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<Value>, A::Error> {
        let mut all = Some(serde_json::Map::new());
        if self.inside
            && let Some(key) = map.next_key::<String>()?
        {
            let value = map.next_value_seed(Self::deeper())?;
            all = value.map(|value| [(key, value)].into_iter().collect());
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            all = None;
        }
        Ok(all.map(Value::Object))
    }
}

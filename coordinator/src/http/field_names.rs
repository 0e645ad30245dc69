//! The check of a request's field names, in one pass over its JSON before any value is read.
//!
//! Fields that are read pass. Fields that would change the answer and are not read are refused, and
//! so are misspelled ones. Unknown fields are returned, for the operator.

use super::endpoint::Endpoint;
use super::error::ApiError;
use super::json;
use super::json_shallow::ShallowValue;
use super::request_objects::RequestObject;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// Unknown fields of one request that are told.
const UNKNOWN_FIELDS_MAX: usize = 8;
/// A longer name is not taken for a misspelled one.
const NAME_BYTES_MAX: usize = 64;

/// Refuses a request with a field that would change its answer and is not read. Returns the unknown
/// fields.
pub(super) fn check(body: &[u8], endpoint: Endpoint) -> Result<Vec<String>, ApiError> {
    let mut check = FieldCheck { path: Vec::new(), unknown_fields: Vec::new(), refused: None };
    let object = ObjectVisitor { object: RequestObject::Body(endpoint), check: &mut check };
    let read = object.deserialize(&mut serde_json::Deserializer::from_slice(body));
    read.map_err(|error| json::refused(None, &error))?;
    match check.refused {
        Some(error) => Err(error),
        None => Ok(check.unknown_fields),
    }
}

struct FieldCheck {
    /// The place of the object that is being read.
    path: Vec<PathStep>,
    unknown_fields: Vec<String>,
    refused: Option<ApiError>,
}

/// A step from an object to one inside it.
enum PathStep {
    Field(&'static str),
    Index(usize),
}

impl FieldCheck {
    fn see(&mut self, object: RequestObject, name: &str, value: Option<&Value>) {
        if object.without_effect().contains(&name) {
            return;
        }
        if let Some(field) = object.refused().find(|field| field.name == name) {
            if !value.is_some_and(|value| field.is_neutral(value)) {
                let place = self.place(name, true);
                self.refused = Some(ApiError::invalid(&place, field.advice(&place)));
            }
            return;
        }
        if let Some(meant) = meant(name, object) {
            let place = self.place(name, true);
            let message = format!("{place} is not known here: did you mean {meant}?");
            self.refused = Some(ApiError::invalid(place, message));
            return;
        }
        if self.unknown_fields.len() < UNKNOWN_FIELDS_MAX {
            let name: String = name.chars().take(NAME_BYTES_MAX).collect();
            let place = self.place(&name, false);
            if !self.unknown_fields.contains(&place) {
                self.unknown_fields.push(place);
            }
        }
    }

    /// A field of the object that is being read, by its path, with the indices of elements or
    /// without.
    fn place(&self, name: &str, is_numbered: bool) -> String {
        let mut place = String::new();
        for step in &self.path {
            match step {
                PathStep::Field(name) if place.is_empty() => place.push_str(name),
                PathStep::Field(name) => place.push_str(&format!(".{name}")),
                PathStep::Index(index) if is_numbered => place.push_str(&format!("[{index}]")),
                PathStep::Index(_) => place.push_str("[]"),
            }
        }
        if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") }
    }
}

/// Checks an object, or the objects of an array. Other values are left to the typed fields.
struct ObjectVisitor<'a> {
    object: RequestObject,
    check: &'a mut FieldCheck,
}

impl ObjectVisitor<'_> {
    /// The visitor of an object inside this one.
    fn inside(&mut self, object: RequestObject) -> ObjectVisitor<'_> {
        ObjectVisitor { object, check: self.check }
    }
}

impl<'de> DeserializeSeed<'de> for ObjectVisitor<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ObjectVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        let object = self.object;
        let mut index = 0;
        loop {
            self.check.path.push(PathStep::Index(index));
            let next = seq.next_element_seed(self.inside(object))?;
            self.check.path.pop();
            if next.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let known = self.object.known().find(|known| *known == name);
            let inside = known.and_then(|field| Some((field, self.object.inside(field)?)));
            match (known, inside) {
                _ if self.check.refused.is_some() => drop(map.next_value::<IgnoredAny>()?),
                (_, Some((field, object))) => {
                    self.check.path.push(PathStep::Field(field));
                    map.next_value_seed(self.inside(object))?;
                    self.check.path.pop();
                }
                (Some(_), None) => drop(map.next_value::<IgnoredAny>()?),
                (None, None) => {
                    let value = map.next_value_seed(ShallowValue::new())?;
                    self.check.see(self.object, &name, value.as_ref());
                }
            }
        }
        Ok(())
    }
}

/// The field that a misspelled name stands for.
fn meant(name: &str, object: RequestObject) -> Option<&'static str> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace(['_', '-', ' '], "");
    let written = plain(name);
    // Short names are near to many words.
    let edits_max = match name.len() {
        0..5 => 0,
        5..8 => 1,
        _ => 2,
    };
    let near = |ours: &&str| strsim::osa_distance(name, ours) <= edits_max;
    let same = object.known().find(|ours| plain(ours) == written);
    same.or_else(|| object.known().find(near))
}

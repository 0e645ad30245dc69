//! Sampling defaults and end tokens out of `generation_config.json`.
//!
//! Values are read as transformers reads them: an end token of -1 is none, a `top_p` of 1 or more
//! filters nothing, and one of 0 leaves only the likeliest token. A value at which transformers
//! would raise an error during generation is ignored here and noted, so that a mistake in the file
//! does not keep the model from being served. Without such a file, `config.json` may have the same
//! keys.

use super::files::{JsonFile, ModelFolder};
use crate::text::{SAMPLING_DEFAULT, TextError};
use binfer_proto::{Sampling, Token};
use serde_json::Value;

/// The sampling defaults and end tokens of a folder.
pub(super) struct GenerationConfig {
    pub(super) sampling: Sampling,
    /// The end tokens of `generation_config.json`, or else of `config.json`.
    pub(super) end_ids: Vec<Token>,
    /// Lines about what was ignored.
    pub(super) notes: Vec<String>,
}

impl GenerationConfig {
    pub(super) fn read(folder: ModelFolder<'_>) -> Result<Self, TextError> {
        let config = folder.object("config.json")?;
        let mut out = match folder.object("generation_config.json") {
            Ok(generation) if !generation.is_empty() => Self::of(&generation),
            Ok(_) => return Ok(Self::of(&config)),
            Err(error) => {
                let mut out = Self::of(&config);
                out.notes.push(format!("{error}; the file is ignored"));
                return Ok(out);
            }
        };
        if out.end_ids.is_empty() {
            let mut reader = GenerationReader::of(&config);
            out.end_ids = reader.end_ids();
            out.notes.extend(reader.note());
        }
        Ok(out)
    }

    /// Reads one file.
    fn of(file: &JsonFile<'_>) -> Self {
        let mut reader = GenerationReader::of(file);
        let (sampling, end_ids) = (reader.sampling(), reader.end_ids());
        Self { sampling, end_ids, notes: reader.note() }
    }
}

/// Sets a field to a number.
type Set = fn(&mut Sampling, f64);

const FIELDS: [(&str, Set); 5] = [
    ("temperature", |sampling, value| sampling.temperature = single(value)),
    ("top_k", |sampling, value| sampling.top_k = whole(value).unwrap_or(0)),
    ("top_p", |sampling, value| sampling.top_p = top_p(value)),
    ("min_p", |sampling, value| sampling.min_p = single(value)),
    ("repetition_penalty", |sampling, value| sampling.repetition_penalty = single(value)),
];

/// Reads a file and notes what it ignores.
struct GenerationReader<'a> {
    file: &'a JsonFile<'a>,
    ignored: Vec<String>,
}

impl<'a> GenerationReader<'a> {
    fn of(file: &'a JsonFile<'a>) -> Self {
        Self { file, ignored: Vec::new() }
    }

    /// The sampling defaults. As in vLLM, `do_sample` does not matter, and an absent key is
    /// neutral.
    fn sampling(&mut self) -> Sampling {
        let mut sampling = SAMPLING_DEFAULT;
        for (key, set) in FIELDS {
            let Some(value) = self.file.get(key) else { continue };
            let Some(number) = value.as_f64() else {
                self.ignored.push(format!("{key} {value} is not a number"));
                continue;
            };
            if key == "top_k" && number != -1.0 && whole(number).is_none() {
                self.ignored.push(format!("top_k {value} is not a whole number of 0 or more"));
                continue;
            }
            let mut changed = sampling;
            set(&mut changed, number);
            match changed.checked() {
                Ok(changed) => sampling = changed,
                Err(cause) => self.ignored.push(cause.to_string()),
            }
        }
        sampling
    }

    /// The end tokens, of which the file has one or several.
    fn end_ids(&mut self) -> Vec<Token> {
        let found = match self.file.get("eos_token_id") {
            None => &[],
            Some(Value::Array(values)) => values.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        let mut ids = Vec::new();
        for value in found {
            match token(value) {
                Some(id) => ids.push(id),
                None => self.ignored.push(format!("eos_token_id {value} is not a token id")),
            }
        }
        ids
    }

    fn note(self) -> Vec<String> {
        if self.ignored.is_empty() {
            return Vec::new();
        }
        vec![self.file.wrong(format!("ignored: {}", self.ignored.join(", "))).to_string()]
    }
}

/// A token id, which may be written as a number or as text.
fn token(value: &Value) -> Option<Token> {
    match value {
        Value::String(text) => text.parse().ok(),
        other => whole(other.as_f64()?),
    }
}

/// The value of `top_p`. The smallest number above 0 stands for 0, which leaves the likeliest
/// token.
fn top_p(value: f64) -> f32 {
    let share = single(value.min(1.0));
    if share < 0.0 { share } else { share.max(f32::MIN_POSITIVE) }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
fn whole(number: f64) -> Option<u32> {
    let fits = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
    fits.then_some(number as u32)
}

#[expect(clippy::cast_possible_truncation, reason = "too large is inf, which the check refuses")]
fn single(number: f64) -> f32 {
    number as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// What a folder with these two files says.
    fn read(config: &str, generation: &str) -> GenerationConfig {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("binfer-generation-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("config.json"), config).unwrap();
        std::fs::write(dir.join("generation_config.json"), generation).unwrap();
        let generation = GenerationConfig::read(ModelFolder(&dir)).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        generation
    }

    fn of(generation: &Value) -> GenerationConfig {
        read(r#"{"eos_token_id": 9}"#, &generation.to_string())
    }

    #[test]
    fn values_are_read_as_transformers_reads_them() {
        let sampling = |value: Value| {
            let generation = of(&value);
            assert!(generation.notes.is_empty(), "{:?}", generation.notes);
            generation.sampling
        };
        assert_eq!(sampling(json!({ "top_k": 50.0 })).top_k, 50);
        assert_eq!(sampling(json!({ "top_k": -1 })).top_k, 0);
        assert_eq!(sampling(json!({ "top_p": 1.5 })).top_p, 1.0);
        assert_eq!(sampling(json!({ "top_p": 0.0 })).top_p, f32::MIN_POSITIVE);
        assert_eq!(sampling(json!({ "top_p": null })).top_p, 1.0);
        assert_eq!(sampling(json!({ "temperature": 0, "do_sample": true })).temperature, 0.0);
        assert_eq!(sampling(json!({ "repetition_penalty": 2 })).repetition_penalty, 2.0);
        let unknown = json!({ "no_such_setting": [1], "cache_config": {}, "watermark": "x" });
        assert_eq!(sampling(unknown), SAMPLING_DEFAULT);
    }

    #[test]
    fn values_out_of_range_are_told_of_and_ignored_one_by_one() {
        let generation = of(&json!({
            "top_p": -0.5, "top_k": 1.5, "min_p": 7, "repetition_penalty": 0.0,
            "temperature": "0.7", "eos_token_id": [2, null, -1, "3", true],
        }));
        assert_eq!(generation.sampling, SAMPLING_DEFAULT);
        assert_eq!(generation.end_ids, [2, 3]);
        let [note] = generation.notes.as_slice() else { panic!("{:?}", generation.notes) };
        let wanted = "generation_config.json: ignored: temperature \"0.7\" is not a number, \
                      top_k 1.5 is not a whole number of 0 or more, top_p -0.5 is not above 0 and \
                      at most 1, min_p 7 is not from 0 to 1, repetition_penalty 0 is not from 0.01 \
                      to 100, eos_token_id null is not a token id, eos_token_id -1 is not a token \
                      id, eos_token_id true is not a token id";
        assert!(note.ends_with(wanted), "{note}");
        // One value that is wrong does not take another with it.
        let generation = of(&json!({ "top_p": -1, "temperature": 0.5 }));
        assert_eq!((generation.sampling.temperature, generation.notes.len()), (0.5, 1));
        assert_eq!(of(&json!({ "eos_token_id": -1 })).end_ids, [9], "that of config.json");
    }

    #[test]
    fn config_json_has_the_settings_where_the_file_is_missing_or_broken() {
        let config = json!({ "temperature": 0.5, "eos_token_id": 9 }).to_string();
        let generation = read(&config, "{}");
        assert_eq!((generation.sampling.temperature, generation.end_ids), (0.5, vec![9]));
        let generation = read(&config, "{ \"top_k\": ");
        assert_eq!((generation.sampling.temperature, generation.end_ids), (0.5, vec![9]));
        assert!(generation.notes[0].ends_with("the file is ignored"), "{:?}", generation.notes);
        let generation = read(&config, "{ \"top_k\": 3 }");
        assert_eq!((generation.sampling.temperature, generation.sampling.top_k), (1.0, 3));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_number_gives_settings_that_can_be_sampled_with(
            key in prop::sample::select(vec![
                "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "eos_token_id",
            ]),
            value in any::<f64>(),
            integer in any::<i64>(),
        ) {
            for value in [json!({ key: value }), json!({ key: integer }), json!({ key: [integer] })] {
                prop_assert!(of(&value).sampling.checked().is_ok());
            }
        }
    }
}

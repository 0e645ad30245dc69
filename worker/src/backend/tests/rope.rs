//! Rope settings in every spelling of `tests/fixtures/rope`: the numbers of transformers, or
//! refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use binfer_shard::spec::Rope;
use binfer_shard::{Checkpoint, Error};
use serde_json::Value;

use crate::backend::rope::{attention_factor, frequencies};

/// Largest relative difference: both compute in single precision, in another order.
const BOUND: f64 = 3e-6;

fn fixture() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/rope/spellings.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A folder with nothing but `config.json`.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("binfer-rope-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// The rope of the model with `base`'s settings and those of a case.
    fn rope(&self, base: &Value, case: &Value) -> Result<Rope, Error> {
        let mut config = base.clone();
        for (key, value) in case["settings"].as_object().unwrap() {
            config[key] = value.clone();
        }
        std::fs::write(self.0.join("config.json"), config.to_string()).unwrap();
        let source = Checkpoint::assumed(&self.0)?;
        let mut rope = source.spec().layers[0].mixer.rope();
        if let Some(longest) = case["longest"].as_u64() {
            rope.scaling = rope.scaling.for_sequences_of(longest as u32);
        }
        Ok(rope)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn check(name: &str, rope: Rope, expected: &Value) {
    let found: Vec<f64> = frequencies(rope).map(f64::from).collect();
    let wanted: Vec<f64> = serde_json::from_value(expected["frequencies"].clone()).unwrap();
    assert_eq!(found.len(), wanted.len(), "{name}");
    for (pair, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        assert!((found / wanted - 1.0).abs() < BOUND, "{name}, pair {pair}: {found}, {wanted}");
    }
    let (found, wanted) = (attention_factor(rope.scaling), expected["factor"].as_f64().unwrap());
    assert!((f64::from(found) / wanted - 1.0).abs() < 1e-6, "{name}: {found}, {wanted}");
}

#[test]
fn every_spelling_gives_the_numbers_of_transformers_or_is_refused() {
    let (fixture, folder) = (fixture(), Folder::new());
    let cases = fixture["cases"].as_array().unwrap();
    let by_name: BTreeMap<&str, &Value> =
        cases.iter().map(|case| (case["name"].as_str().unwrap(), case)).collect();
    let (mut equal, mut refused) = (0, 0);
    for (name, case) in &by_name {
        let rope = folder.rope(&fixture["base"], case);
        let says = case["refused"].as_str();
        if says.is_some() || (case["raises"].is_string() && case["as"].is_null()) {
            let message = rope.expect_err(name).to_string();
            let message = message.replace("rope_scaling", "rope scaling");
            let says = says.unwrap_or("rope scaling").replace("rope_scaling", "rope scaling");
            assert!(message.contains(&says), "{name}: {message}");
            refused += 1;
            continue;
        }
        let rope = rope.unwrap_or_else(|error| panic!("{name}: {error}"));
        check(name, rope, case["as"].as_str().map_or(*case, |other| by_name[other]));
        equal += 1;
    }
    assert_eq!((by_name.len(), equal + refused), (cases.len(), cases.len()), "names are unique");
    assert!(equal >= 60 && refused >= 12, "{equal} and {refused}");
}

//! Settings that no reader understands: what matters refuses, the rest is told of and ignored.

use binfer_shard::{Description, Error, describe};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::folder_writer::Folder;
use crate::scratch;

/// Describes a folder of which only `config.json` is there.
fn described(name: &str, config: &Value) -> Result<Description, Error> {
    let path = scratch(&format!("unread-{name}"));
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("config.json"), config.to_string()).unwrap();
    describe(&path)
}

fn llama() -> Value {
    Folder::new("LlamaForCausalLM", "llama").config
}

fn with(name: &str, key: &str, value: Value) -> Result<Description, Error> {
    let mut config = llama();
    config[key] = value;
    described(name, &config)
}

/// Published settings, as repositories with a free licence have them.
#[test]
fn published_configurations_are_read() {
    let text = include_str!("../../../tests/fixtures/configs/published.json");
    let published: Vec<Value> = serde_json::from_str(text).unwrap();
    assert!(published.len() >= 19);
    for one in &published {
        let name = one["name"].as_str().unwrap();
        let described = described("published", &one["config"]);
        if let Some(says) = one["refused"].as_str() {
            let message = described.expect_err(name).to_string();
            assert!(message.contains(says), "{name}: {message}");
            continue;
        }
        let described = described.unwrap_or_else(|error| panic!("{name}: {error}"));
        let told: Vec<String> = serde_json::from_value(one["told"].clone()).unwrap();
        let notes = described.notes.concat();
        assert_eq!(told.is_empty(), notes.is_empty(), "{name}: {notes}");
        assert!(told.iter().all(|key| notes.contains(key)), "{name}: {notes}");
    }
}

/// Each changes nothing, or says what the model has anyway.
const WITHOUT_EFFECT: &str = r#"{
    "do_sample": true, "temperature": 0.9, "top_p": 0.6, "max_length": 4096, "num_beams": 1,
    "min_length": 0, "suppress_tokens": [1], "gradient_checkpointing": false,
    "is_decoder": false, "torchscript": false, "use_bfloat16": false, "num_labels": 1,
    "problem_type": "x", "tokenizer_class": "LlamaTokenizer", "_attn_implementation": "sdpa",
    "attn_implementation": "flash_attention_2", "_flash_attn_2_enabled": true,
    "use_flash_attention": true, "neftune_noise_alpha": 5, "cache_implementation": "hybrid",
    "model_max_length": 4096, "tokenizer_model_max_length": 4096, "embd_pdrop": 0.0,
    "base_model_name_or_path": "a/b", "classifier_dropout": 0.1, "resid_pdrop": 0.0,
    "layer_norm_eps": 1e-5, "use_sliding_window": false, "max_window_layers": 28,
    "layer_types": ["full_attention", "full_attention"], "num_experts": 0,
    "reference_compile": false, "hidden_act": "swish", "activation": "swiglu",
    "embedding_multiplier": 1.0, "attention_bias": false, "mlp_bias": false,
    "partial_rotary_factor": 1.0, "quantization_config": {}, "eos_token_id": [2, null],
    "pad_token_id": -1, "num_key_value_heads": 2.0, "rope_interleaved": false
}"#;

#[test]
fn settings_without_effect_are_accepted() {
    let settings: Value = serde_json::from_str(WITHOUT_EFFECT).unwrap();
    for (key, value) in settings.as_object().unwrap() {
        let described = with("fine", key, value.clone());
        let described = described.unwrap_or_else(|error| panic!("{key}: {error}"));
        assert!(described.notes.is_empty(), "{key}: {:?}", described.notes);
    }
    let all: Value = llama()
        .as_object()
        .unwrap()
        .iter()
        .chain(settings.as_object().unwrap())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into();
    assert!(described("all", &all).unwrap().notes.is_empty());
}

#[test]
fn what_somebody_may_expect_something_of_is_told_in_one_line() {
    let mut config = llama();
    config["auto_map"] = json!({ "AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM" });
    config["favourite_colour"] = json!("blue");
    config["rope_scaling"] = json!({ "type": "default", "factor": 8.0 });
    let notes = described("told", &config).unwrap().notes;
    let [note] = notes.as_slice() else { panic!("{notes:?}") };
    for part in [
        "config.json: ignored, as without effect: auto_map = {\"AutoModel",
        "... (code that comes with a model is not run), favourite_colour = \"blue\", ",
        "rope_scaling.factor = 8.0 (scaling of this kind does not read it)",
    ] {
        assert!(note.contains(part), "{note}");
    }
}

#[test]
fn settings_that_matter_are_refused_by_name() {
    for (key, value) in [
        ("embedding_multiplier", json!(12.0)),
        ("logits_scaling", json!(8)),
        ("attention_multiplier", json!(0.015)),
        ("residual_multiplier", json!(0.22)),
        ("final_logit_softcapping", json!(30.0)),
        ("num_experts", json!(8)),
        ("num_local_experts", json!(8)),
        ("sliding_window", json!(4096)),
        ("use_sliding_window", json!(true)),
        ("layer_types", json!(["full_attention", "sliding_attention"])),
        ("attention_chunk_size", json!(128)),
        ("use_qk_norm", json!(true)),
        ("no_rope_layers", json!([1, 0])),
        ("clip_qkv", json!(8.0)),
        ("scale_depth", json!(1.4)),
        ("dim_model_base", json!(256)),
        ("norm_type", json!("layer_norm")),
        ("activation", json!("relu2")),
        ("position_embedding_type", json!("alibi")),
        ("quantization_config", json!({ "quant_method": "fp8" })),
        ("use_rope", json!(false)),
        ("some_new_attention", json!(false)),
        ("is_llama_config", json!(false)),
    ] {
        let shown = format!("{key} = {value}");
        let start: String = shown.chars().take(40).collect();
        let message = with("matters", key, value).expect_err(key).to_string();
        let wanted = format!("settings that are not supported yet: {start}");
        assert!(message.contains(&wanted), "{message}");
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,60}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("\\PC{0,8}", inner, 0..4).prop_map(|entries| Value::from(
                entries.into_iter().collect::<serde_json::Map<_, _>>()
            )),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever the key and its value: a model or an error, and never silence about an unknown key.
    #[test]
    fn any_key_is_told_of_or_refused(key in "\\PC{1,24}", value in any_value()) {
        let key = format!("~{key}");
        let null = value.is_null();
        match with("any", &key, value) {
            Ok(described) => prop_assert_eq!(described.notes.is_empty(), null),
            Err(error) => prop_assert!(error.to_string().contains("not supported yet: ~")),
        }
    }

    /// Whatever the value of a known key: a model or an error.
    #[test]
    fn any_value_gives_a_model_or_an_error(index in 0_usize..64, value in any_value()) {
        let config = llama();
        let keys: Vec<&String> = config.as_object().unwrap().keys().collect();
        let more = ["rope_parameters", "head_dim", "sliding_window", "layer_types", "dtype"];
        let key = keys.get(index % (keys.len() + more.len())).map(|key| key.as_str());
        let key = key.unwrap_or(more[index % more.len()]);
        let _ = with("value", key, value.clone());
        for within in ["rope_type", "factor", "truncate", "full_attention", "mscale"] {
            let rope = json!({ "rope_type": "yarn", "factor": 2, within: value.clone() });
            let _ = with("rope", "rope_scaling", rope);
        }
    }

    #[test]
    fn a_key_with_a_word_that_matters_is_refused(
        before in "([a-z]{1,6}_)?",
        word in prop::sample::select(vec![
            "attention", "norm", "rope", "activation", "scaling", "quant", "window", "expert",
            "bias", "softcap", "multiplier", "residual", "embedding", "head", "logit", "layer",
        ]),
        after in "(_[a-z]{1,6})?",
        value in any_value().prop_filter("a value", |value| !value.is_null()),
    ) {
        let key = format!("zz_{before}{word}{after}");
        let error = with("word", &key, value).expect_err("a key that may matter").to_string();
        prop_assert!(error.contains(&key), "{}", error);
    }
}

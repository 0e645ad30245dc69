//! `config.json`: what is accepted, in every spelling, and what is refused by name.

use binfer_shard::spec::{KvKind, ModelSpec, RopeScaling};
use binfer_shard::{Checkpoint, Error};
use serde_json::{Value, json};

use crate::folder_writer::Folder;
use crate::scratch;

/// Class and `model_type` of a family.
type Family = (&'static str, &'static str);

const LLAMA: Family = ("LlamaForCausalLM", "llama");
const MISTRAL: Family = ("MistralForCausalLM", "mistral");
const QWEN2: Family = ("Qwen2ForCausalLM", "qwen2");
const QWEN3: Family = ("Qwen3ForCausalLM", "qwen3");

fn open(name: &str, folder: &Folder) -> Result<Checkpoint, Error> {
    let path = scratch(&format!("configs-{name}"));
    folder.write(&path);
    Checkpoint::open(path)
}

fn spec_of(name: &str, (class, model_type): Family, settings: Value) -> ModelSpec {
    let mut folder = Folder::new(class, model_type);
    for (key, value) in settings.as_object().unwrap() {
        folder.set(key, value.clone());
    }
    open(name, &folder).unwrap_or_else(|error| panic!("{name}: {error}")).spec().clone()
}

fn kinds(spec: &ModelSpec) -> Vec<KvKind> {
    spec.layers.iter().map(|layer| spec.kv_groups[layer.kv_group].kind).collect()
}

#[test]
fn both_spellings_of_rope() {
    let llama3 = json!({ "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64, "rope_type": "llama3" });
    let mut within = llama3.clone();
    within["rope_theta"] = json!(500_000.0);
    let old = json!({ "rope_scaling": llama3, "rope_theta": 500_000 });
    let new = json!({ "rope_parameters": within, "dtype": "bfloat16" });
    let [old, new] = [old, new].map(|settings| spec_of("spellings", LLAMA, settings));
    assert_eq!(old, new);
    let gqa = crate::model::gqa(&old, 0);
    assert_eq!((gqa.rope.theta, gqa.rope.dims, gqa.head_dim), (500_000.0, 8, 8));
    assert!(matches!(gqa.rope.scaling, RopeScaling::Llama3 { original_context: 64, .. }));
    assert_eq!(old.context_max, 128);

    let settings = json!({ "rope_scaling": { "type": "linear", "factor": 4 } });
    let spec = spec_of("linear", MISTRAL, settings);
    let gqa = crate::model::gqa(&spec, 0);
    assert_eq!(gqa.rope.scaling, RopeScaling::Linear { factor: 4.0 });
    assert_eq!((gqa.rope.theta, spec.context_max), (10_000.0, 512));

    let settings = json!({ "rope_scaling": { "rope_type": "dynamic", "factor": 2.5 } });
    let spec = spec_of("dynamic", LLAMA, settings);
    let gqa = crate::model::gqa(&spec, 0);
    let scaling = RopeScaling::Dynamic { factor: 2.5, original_context: 128, longest: 128 };
    assert_eq!(gqa.rope.scaling, scaling);
    // Longer sequences only where they are asked for: they change the result of short ones.
    assert_eq!((spec.context_max, spec.context_limit()), (128, 320));

    let yarn = json!({ "rope_type": "yarn", "factor": 4.0, "beta_fast": 16, "attention_factor": 1.5,
        "original_max_position_embeddings": 100 });
    let spec = spec_of("yarn", QWEN3, json!({ "rope_scaling": yarn }));
    let gqa = crate::model::gqa(&spec, 0);
    let scaling = RopeScaling::Yarn {
        factor: 4.0,
        original_context: 100,
        beta_fast: 16.0,
        beta_slow: 1.0,
        attention_factor: 1.5,
        truncate: true,
    };
    assert_eq!((gqa.rope.scaling, spec.context_max), (scaling, 400));
    assert_eq!(spec.context_limit(), 400);
}

#[test]
fn windows() {
    use KvKind::{Full, Window};
    let qwen = |switched: bool, first: u32| json!({ "use_sliding_window": switched, "sliding_window": 9, "max_window_layers": first });
    let cases = [
        ("mistral", MISTRAL, json!({ "sliding_window": 9 }), [Window(9); 2]),
        ("mistral-none", MISTRAL, json!({ "sliding_window": null }), [Full; 2]),
        ("off", QWEN2, qwen(false, 0), [Full; 2]),
        ("beyond", QWEN2, qwen(true, 28), [Full; 2]),
        ("upper", QWEN2, qwen(true, 1), [Full, Window(9)]),
        ("all", QWEN3, qwen(true, 0), [Window(9); 2]),
    ];
    for (name, family, settings, wanted) in cases {
        let spec = spec_of(&format!("window-{name}"), family, settings);
        assert_eq!(kinds(&spec), wanted, "{name}");
        let layers: u32 = spec.kv_groups.iter().map(|group| group.layers).sum();
        assert_eq!(layers, 2);
    }
    let mut settings = qwen(true, 28);
    settings["layer_types"] = json!(["sliding_attention", "full_attention"]);
    let spec = spec_of("window-types", QWEN3, settings);
    assert_eq!(kinds(&spec), [Window(9), Full]);
}

#[test]
fn heads_ends_ties_and_defaults() {
    let mut folder = Folder::new(LLAMA.0, LLAMA.1);
    folder.set("num_key_value_heads", Value::Null).set("num_attention_heads", json!(2));
    folder.set("head_dim", json!(8)).set("tie_word_embeddings", json!(true));
    folder.tensors.retain(|tensor| tensor.name != "lm_head.weight");
    for tensor in &mut folder.tensors {
        match tensor.name.rsplit('.').nth(1) {
            Some("q_proj") => tensor.shape = vec![16, 32],
            Some("o_proj") => tensor.shape = vec![32, 16],
            _ => {}
        }
    }
    let source = open("heads", &folder).unwrap();
    let spec = source.spec();
    let gqa = crate::model::gqa(spec, 1);
    assert_eq!((gqa.heads, gqa.kv_heads, gqa.head_dim), (2, 2, 8));
    assert!(spec.tied_head);
    folder.set("eos_token_id", json!(2));
    assert!(open("one-end", &folder).is_ok());
    let spec = spec_of("stored-head", LLAMA, json!({ "tie_word_embeddings": true }));
    assert!(!spec.tied_head);
}

/// With the settings of Qwen3 8B as it was published, all but its weights.
#[test]
fn a_published_configuration() {
    let mut folder = Folder::new(QWEN3.0, QWEN3.1);
    folder.config = json!({
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 151_643, "eos_token_id": 151_645, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 12288,
        "max_position_embeddings": 40960, "max_window_layers": 36, "model_type": "qwen3",
        "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6, "rope_scaling": null, "rope_theta": 1_000_000,
        "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "use_cache": true, "use_sliding_window": false, "vocab_size": 151_936
    });
    let error = open("published", &folder).unwrap_err().to_string();
    assert!(error.contains("36 layers, but fewer tensors than that"), "{error}");
    folder.set("num_hidden_layers", json!(2));
    let error = open("published", &folder).unwrap_err().to_string();
    let wanted = "([cols, rows]): model.embed_tokens.weight is [32, 64], not [4096, 151936]";
    assert!(error.contains(wanted), "{error}");
    folder
        .set("architectures", json!(["Gemma3ForCausalLM"]))
        .set("model_type", json!("gemma3_text"));
    let error = open("published", &folder).unwrap_err().to_string();
    let wanted = "Gemma3ForCausalLM (model_type gemma3_text) is not supported yet";
    assert!(error.contains(wanted), "{error}");
}

/// A family, a setting that spoils its configuration, and what must be said of it.
type Case = (Family, &'static str, Value, &'static str);

fn refuse(what: &str, cases: impl IntoIterator<Item = Case>) {
    for (index, ((class, model_type), key, value, says)) in cases.into_iter().enumerate() {
        let mut folder = Folder::new(class, model_type);
        folder.set(key, value);
        let message = open(&format!("{what}-{index}"), &folder).expect_err(says).to_string();
        assert!(message.contains(says), "{message}");
    }
}

#[test]
fn refused_ropes() {
    let rope = |kind: &str| json!({ "rope_type": kind, "factor": 2.0 });
    let cases = [
        (LLAMA, "rope_scaling", rope("longrope"), "rope scaling \"longrope\" is not supported yet"),
        (LLAMA, "rope_scaling", rope("llama3"), "rope_scaling.low_freq_factor is missing"),
        (LLAMA, "rope_scaling", json!({ "type": "linear" }), "rope_scaling.factor is missing"),
        (
            LLAMA,
            "rope_scaling",
            json!({ "type": "linear", "factor": -1 }),
            "factor of the rope scaling is -1",
        ),
        (
            LLAMA,
            "rope_scaling",
            json!({ "type": "yarn", "factor": 2, "truncate": 0 }),
            "rope_scaling.truncate should be true or false, but is 0",
        ),
        (LLAMA, "rope_scaling", json!("yarn"), "rope_scaling should be an object, but is \"yarn\""),
        (LLAMA, "rope_theta", json!(0), "rope_theta is 0"),
    ];
    refuse("ropes", cases);
    let mut both = Folder::new(LLAMA.0, LLAMA.1);
    both.set("rope_scaling", rope("linear")).set("rope_parameters", rope("dynamic"));
    let message = open("both", &both).unwrap_err().to_string();
    assert!(message.contains("which one is meant?"), "{message}");
}

/// What transformers 5 writes of models whose layers differ.
#[test]
fn rope_by_layer_type_is_read_where_the_layers_of_the_model_agree() {
    let linear = |factor: f64| json!({ "rope_type": "linear", "factor": factor });
    let window = |settings: Value| {
        let mut settings = json!({ "rope_parameters": settings, "sliding_window": 9 });
        settings["use_sliding_window"] = json!(true);
        settings["max_window_layers"] = json!(1);
        settings
    };
    let by_type = json!({ "full_attention": linear(2.0), "sliding_attention": linear(2.0) });
    let spec = spec_of("by-type", QWEN3, window(by_type));
    let gqa = crate::model::gqa(&spec, 1);
    assert_eq!(gqa.rope.scaling, RopeScaling::Linear { factor: 2.0 });
    // A type that no layer has does not matter.
    let unused = json!({ "full_attention": linear(4.0), "sliding_attention": linear(2.0) });
    let spec = spec_of("by-type-unused", LLAMA, json!({ "rope_parameters": unused }));
    let gqa = crate::model::gqa(&spec, 1);
    assert_eq!(gqa.rope.scaling, RopeScaling::Linear { factor: 4.0 });
    let cases = [
        (
            json!({ "full_attention": linear(4.0), "sliding_attention": linear(2.0) }),
            "another rope for each layer type",
        ),
        (json!({ "full_attention": linear(4.0) }), "rope_parameters.sliding_attention is missing"),
        (
            json!({ "full_attention": linear(4.0), "factor": 2 }),
            "not supported yet: rope_parameters.factor = 2",
        ),
    ];
    for (index, (settings, says)) in cases.into_iter().enumerate() {
        let mut folder = Folder::new(QWEN3.0, QWEN3.1);
        for (key, value) in window(settings).as_object().unwrap() {
            folder.set(key, value.clone());
        }
        let message = open(&format!("by-type-{index}"), &folder).expect_err(says).to_string();
        assert!(message.contains(says), "{message}");
    }
}

/// Keys that are not there are what transformers' classes have for them; null is something else.
#[test]
fn absent_keys_have_the_defaults_of_their_class() {
    let mut folder = Folder::new(MISTRAL.0, MISTRAL.1);
    let config = folder.config.as_object_mut().unwrap();
    for key in ["hidden_act", "rms_norm_eps", "max_position_embeddings"] {
        config.remove(key);
    }
    let spec = open("defaults", &folder).unwrap().spec().clone();
    assert_eq!(kinds(&spec), [KvKind::Window(4096); 2]);
    assert_eq!((spec.norm_eps, spec.context_max), (1e-6, 131_072));
    folder.config["sliding_window"] = Value::Null;
    assert_eq!(kinds(open("defaults-null", &folder).unwrap().spec()), [KvKind::Full; 2]);
    let mut llama = Folder::new(LLAMA.0, LLAMA.1);
    llama.config.as_object_mut().unwrap().remove("max_position_embeddings");
    assert_eq!(open("defaults-llama", &llama).unwrap().spec().context_max, 2048);
    let mut qwen3 = Folder::new(QWEN3.0, QWEN3.1);
    let message = open("head-null", qwen3.set("head_dim", Value::Null)).map(|_| ()).err();
    assert!(message.is_none(), "{message:?}");
    qwen3.config.as_object_mut().unwrap().remove("head_dim");
    let message = open("head-absent", &qwen3).unwrap_err().to_string();
    assert!(message.contains("not [32, 512]"), "{message}");
}

#[test]
fn refused_windows() {
    let cases = [
        (MISTRAL, "sliding_window", json!(0), "sliding_window is 0"),
        (MISTRAL, "num_key_value_heads", Value::Null, "k_proj.weight is [32, 16], not [32, 32]"),
        (QWEN2, "use_mrope", json!(true), "use_mrope = true"),
        (QWEN3, "layer_types", json!(["full_attention"]), "1 layer_types for 2 layers"),
        (QWEN3, "layer_types", json!(vec!["sliding_attention"; 2]), "there is no sliding window"),
        (
            QWEN3,
            "layer_types",
            json!(vec!["linear_attention"; 2]),
            "layer type \"linear_attention\"",
        ),
    ];
    refuse("windows", cases);
}

#[test]
fn refused_settings() {
    let cases = [
        (
            LLAMA,
            "architectures",
            json!(["MixtralForCausalLM"]),
            "MixtralForCausalLM (model_type llama) is not supported yet; supported: DeepseekV2ForCausalLM, ",
        ),
        (LLAMA, "model_type", json!("qwen3_moe"), "(model_type qwen3_moe) is not supported"),
        (LLAMA, "hidden_act", json!("gelu"), "activation \"gelu\" is not supported yet"),
        (
            LLAMA,
            "logit_scale",
            json!(0.5),
            "settings that are not supported yet: logit_scale = 0.5",
        ),
        (LLAMA, "quantization_config", json!({ "bits": 4 }), "quantization_config = {\"bits\":4}"),
        (LLAMA, "sliding_window", json!(9), "not supported yet: sliding_window = 9"),
        (LLAMA, "partial_rotary_factor", json!(0.5), "partial_rotary_factor = 0.5"),
        (LLAMA, "attention_bias", json!(1), "attention_bias should be true or false, but is 1"),
        (
            LLAMA,
            "attention_bias",
            json!(true),
            "lacks tensors: model.layers.0.self_attn.q_proj.bias",
        ),
        (LLAMA, "hidden_size", Value::Null, "hidden_size is missing"),
        (
            LLAMA,
            "hidden_size",
            json!(-5),
            "hidden_size should be an integer from 0 to 2^32 - 1, but is -5",
        ),
        (LLAMA, "num_hidden_layers", json!(u32::MAX), "fewer tensors than that"),
        (LLAMA, "num_attention_heads", json!(0), "num_attention_heads is 0"),
        (LLAMA, "num_key_value_heads", json!(3), "4 query heads cannot share 3 KV heads"),
        (LLAMA, "head_dim", json!(7), "a head width of 7 cannot be rotated in pairs"),
        (LLAMA, "head_dim", json!(u32::MAX - 1), "are too many"),
        (LLAMA, "rms_norm_eps", json!(2.5), "rms_norm_eps is 2.5"),
        (LLAMA, "tie_word_embeddings", json!("x"), "tie_word_embeddings should be true or false"),
        (LLAMA, "vocab_size", json!(65), "model.embed_tokens.weight is [32, 64], not [32, 65]"),
    ];
    refuse("settings", cases);
}

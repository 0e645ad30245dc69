//! Mixtures of experts that cannot be: settings and tensors that contradict each other.

use std::path::PathBuf;

use binfer_shard::{Checkpoint, Error, ErrorKind, layouts, shards};
use serde_json::{Value, json};

use crate::mixtures::fixture;
use crate::scratch;
use crate::shards::absent;

/// A fixture's settings, and its file as it is, or as a test spoils it.
struct Spoilt {
    config: Value,
    header: Value,
    data: Vec<u8>,
    folder: PathBuf,
}

impl Spoilt {
    fn of(name: &str, test: &str) -> Self {
        let config = std::fs::read(fixture(name).join("config.json")).unwrap();
        let file = std::fs::read(fixture(name).join("model.safetensors")).unwrap();
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        Self {
            config: serde_json::from_slice(&config).unwrap(),
            header: serde_json::from_slice(&file[8..8 + length]).unwrap(),
            data: file[8 + length..].to_vec(),
            folder: scratch(&format!("hostile-{name}-{test}")),
        }
    }

    fn open(&self) -> Result<Checkpoint, Error> {
        let _ = std::fs::remove_dir_all(&self.folder);
        std::fs::create_dir_all(&self.folder).unwrap();
        std::fs::write(self.folder.join("config.json"), self.config.to_string()).unwrap();
        let header = self.header.to_string().into_bytes();
        let file = [&(header.len() as u64).to_le_bytes()[..], &header, &self.data].concat();
        std::fs::write(self.folder.join("model.safetensors"), file).unwrap();
        Checkpoint::open(&self.folder)
    }

    fn refused(&self) -> String {
        self.open().map(|_| ()).unwrap_err().to_string()
    }

    /// Gives a tensor another name.
    fn rename(&mut self, from: &str, to: &str) {
        let header = self.header.as_object_mut().unwrap();
        let entry = header.remove(from).unwrap();
        header.insert(to.to_owned(), entry);
    }

    /// Where the data of a tensor begin.
    fn start(&self, name: &str) -> usize {
        self.header[name]["data_offsets"][0].as_u64().unwrap() as usize
    }
}

#[test]
fn numbers_of_experts_that_cannot_be_are_refused_by_name() {
    let mut others = Vec::new();
    for (name, key, value, says) in [
        ("qwen3-moe", "num_experts", json!(0), "num_experts is 0"),
        ("qwen3-moe", "num_experts", json!(1 << 30), "experts in each of 3 layers are too many"),
        ("qwen3-moe", "num_local_experts", json!(9), "num_experts 8, num_local_experts 9"),
        ("qwen3-moe", "num_experts_per_tok", json!(9), "9 of 8 experts for each token"),
        ("qwen3-moe", "num_experts_per_tok", json!(0), "num_experts_per_tok is 0"),
        ("qwen3-moe", "moe_intermediate_size", json!(4_000_000_000_u32), "are too large"),
        ("qwen3-moe", "decoder_sparse_step", json!(0), "decoder_sparse_step is 0"),
        ("qwen3-moe", "num_experts", json!(9), "lacks tensors: model.layers.1.mlp.experts.8."),
        ("qwen3-moe", "num_experts", json!(7), "without a use in this architecture"),
        ("qwen3-moe-fused", "num_experts", json!(9), "not [64, 64, 9] (fastest first)"),
        ("mixtral", "num_local_experts", json!(0), "0 experts of 32 columns"),
        ("mixtral", "sliding_window", json!(0), "sliding_window is 0"),
        (
            "gpt-oss-bf16",
            "experts_per_token",
            json!(3),
            "num_experts_per_tok 2, experts_per_token 3",
        ),
        ("gpt-oss-bf16", "swiglu_alpha", json!(1.0), "swiglu_alpha = 1; supported: 1.702"),
        ("gpt-oss-bf16", "swiglu_limit", json!(-1.0), "swiglu_limit is -1"),
        ("gpt-oss-bf16", "rope_scaling", Value::Null, "says how positions are scaled"),
        ("deepseek-v3", "n_group", json!(5), "12 experts are not 5 equal groups"),
        ("deepseek-v3", "n_group", json!(12), "4 experts out of 2 of 12 groups of 1"),
        ("deepseek-v3", "topk_group", json!(4), "out of 4 of 3 groups of 4"),
        ("deepseek-v3", "topk_method", json!("greedy"), "topk_method = \"greedy\""),
        ("deepseek-v3", "scoring_func", json!("softmax"), "scoring_func = \"softmax\""),
        ("deepseek-v3", "moe_layer_freq", json!(2), "moe_layer_freq = 2"),
        ("deepseek-v3", "n_shared_experts", json!(1 << 30), "shared experts of 16 columns are too"),
        ("deepseek-v3", "qk_rope_head_dim", json!(7), "7 rotated elements of a head"),
        ("deepseek-v3", "kv_lora_rank", json!(4_294_967_295_u32), "are too many"),
        ("deepseek-v3", "num_key_value_heads", json!(2), "4 heads and 2 KV heads"),
        ("deepseek-v3", "v_head_dim", json!(15), "kv_b_proj.weight: its shape is [32, 128]"),
        ("deepseek-v3", "routed_scaling_factor", json!(0.0), "are scaled by 0"),
        ("deepseek-v2", "norm_topk_prob", json!(true), "norm_topk_prob = true"),
    ] {
        let mut spoilt = Spoilt::of(name, key);
        spoilt.config[key] = value;
        let message = spoilt.refused();
        if !message.contains(says) {
            others.push(format!("{name} {key}: {message}"));
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
}

#[test]
fn the_number_of_experts_may_have_the_name_that_transformers_5_writes() {
    let mut spoilt = Spoilt::of("qwen3-moe", "other-name");
    let settings = spoilt.config.as_object_mut().unwrap();
    let experts = settings.remove("num_experts").unwrap();
    settings.insert("num_local_experts".to_owned(), experts);
    spoilt.open().unwrap();
}

#[test]
fn ways_to_quantise_that_are_not_served_are_refused_by_name() {
    for (key, value, says) in [
        ("weight_block_size", json!([64, 128]), "weight_block_size = [64,128]"),
        ("weight_block_size", json!([128, 128, 128]), "weight_block_size = [128,128,128]"),
        ("activation_scheme", json!("static"), "activation_scheme = \"static\""),
        ("fmt", json!("e5m2"), "fmt = \"e5m2\""),
        ("quant_method", json!("gptq"), "quantization_config = "),
        ("sparsity_config", json!({ "format": "dense" }), "quantization_config.sparsity_config"),
    ] {
        let mut spoilt = Spoilt::of("deepseek-v3-fp8", key);
        spoilt.config["quantization_config"][key] = value;
        let message = spoilt.refused();
        assert!(message.contains(says), "{key}: {message}");
    }
}

#[test]
fn codes_without_scales_and_scales_without_codes_are_refused() {
    let experts = "model.layers.0.mlp.experts";
    let mut spoilt = Spoilt::of("gpt-oss-mxfp4", "no-scales");
    spoilt.rename(&format!("{experts}.down_proj_scales"), "elsewhere");
    let message = spoilt.refused();
    assert!(message.contains("down_proj_scales: it is missing, and its other half"), "{message}");

    let mut spoilt = Spoilt::of("gpt-oss-mxfp4", "shape");
    spoilt.header[format!("{experts}.down_proj_scales")]["shape"] = json!([5, 32, 4]);
    let message = spoilt.refused();
    assert!(message.contains("are not 16 bytes for each scale"), "{message}");

    let weight = "model.layers.1.mlp.experts.0.up_proj.weight";
    let mut spoilt = Spoilt::of("deepseek-v3-fp8", "no-scales");
    spoilt.rename(&format!("{weight}_scale_inv"), "elsewhere");
    let message = spoilt.refused();
    assert!(message.contains("up_proj.weight is F8_E4M3, which is no weight"), "{message}");

    let mut spoilt = Spoilt::of("deepseek-v3-fp8", "no-codes");
    spoilt.rename(weight, "elsewhere");
    let message = spoilt.refused();
    assert!(message.contains("up_proj.weight: it has scales, but is not there"), "{message}");

    // As many scales, of another shape.
    let mut spoilt = Spoilt::of("deepseek-v3-fp8", "scales-shape");
    let scales = format!("{weight}_scale_inv");
    let shape = spoilt.header[&scales]["shape"].as_array().unwrap().clone();
    assert_ne!(shape[0], shape[1]);
    spoilt.header[&scales]["shape"] = json!([shape[1], shape[0]]);
    let message = spoilt.refused();
    assert!(message.contains("one for each 128 by 128"), "{message}");
}

#[test]
fn a_scale_that_is_no_number_is_named_when_it_is_read() {
    let scales = "model.layers.0.mlp.experts.gate_up_proj_scales";
    let mut spoilt = Spoilt::of("gpt-oss-mxfp4", "nan");
    let at = spoilt.start(scales);
    spoilt.data[at] = 255;
    let source = spoilt.open().unwrap();
    let out = absent("hostile-nan-shards");
    let error = shards::write(&source, 2, &out, |_| true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    let message = error.to_string();
    assert!(
        message.contains(scales) && message.contains("is 255, which is no number"),
        "{message}"
    );
    assert!(!out.exists());

    let scales = "model.layers.1.mlp.experts.0.up_proj.weight_scale_inv";
    let mut spoilt = Spoilt::of("deepseek-v3-fp8", "nan");
    let at = spoilt.start(scales);
    spoilt.data[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let source = spoilt.open().unwrap();
    let message = shards::write(&source, 1, &out, |_| true).unwrap_err().to_string();
    assert!(message.contains(scales) && message.contains("is no number"), "{message}");
}

#[test]
fn a_tensor_that_is_stored_twice_and_a_file_that_is_cut_short_are_refused() {
    let mut spoilt = Spoilt::of("qwen3-moe-fused", "twice");
    spoilt.rename("model.norm.weight", "model.layers.1.mlp.experts.0.up_proj.weight");
    let message = spoilt.refused();
    assert!(message.contains("stored by itself, and as a part of another tensor"), "{message}");

    let mut spoilt = Spoilt::of("gpt-oss-mxfp4", "short");
    spoilt.data.truncate(1000);
    let message = spoilt.refused();
    assert!(message.contains("bytes short"), "{message}");

    // Cut after it was opened: the reader says so, and nothing is taken for weights.
    let spoilt = Spoilt::of("gpt-oss-mxfp4", "cut");
    let source = spoilt.open().unwrap();
    let file = spoilt.folder.join("model.safetensors");
    let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    file.set_len(9000).unwrap();
    let layout = &layouts(source.spec(), 1).unwrap()[0];
    let parts = source.local_tensors(layout).unwrap().into_iter().flat_map(|tensor| tensor.parts);
    let failed = parts.filter_map(|part| {
        let mut bytes = vec![0; part.bytes() as usize];
        source.read_into(&part, &mut bytes).err()
    });
    let kinds: Vec<ErrorKind> = failed.map(|error| error.kind()).collect();
    assert!(!kinds.is_empty() && kinds.iter().all(|kind| *kind == ErrorKind::Truncated));
}

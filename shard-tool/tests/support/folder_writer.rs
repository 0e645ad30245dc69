//! Writes small Hugging Face folders, right and wrong, for tests.
//!
//! Like the GGUF writer it checks nothing; data are pseudo-random bytes.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each user takes what it needs")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a panic is a failed test"
)]

use std::path::Path;

use serde_json::{Value, json};

use crate::gguf_writer::byte_of;

/// A tensor as the header will have it; slowest dimension first.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<u64>,
}

impl Tensor {
    pub fn bytes(&self) -> u64 {
        let each = if self.dtype == "F32" { 4 } else { 2 };
        self.shape.iter().product::<u64>() * each
    }
}

pub fn tensor(name: &str, dtype: &'static str, shape: &[u64]) -> Tensor {
    Tensor { name: name.to_owned(), dtype, shape: shape.to_vec() }
}

/// A file of these tensors, one after the other.
pub fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let mut header = json!({ "__metadata__": { "format": "pt" } });
    let mut data: Vec<u8> = Vec::new();
    for tensor in tensors {
        let start = data.len() as u64;
        data.extend((0..tensor.bytes()).map(|index| byte_of(&tensor.name, index)));
        let offsets = [start, data.len() as u64];
        header[&tensor.name] =
            json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets });
    }
    with_header(&header.to_string(), &data)
}

pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut header = header.as_bytes().to_vec();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()
}

/// A folder in the making.
#[derive(Clone, Debug)]
pub struct Folder {
    pub config: Value,
    pub tensors: Vec<Tensor>,
}

impl Folder {
    /// A small model of a family, right; tests then spoil it.
    pub fn new(class: &str, model_type: &str) -> Self {
        let config = json!({
            "architectures": [class], "model_type": model_type, "hidden_act": "silu",
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
            "rms_norm_eps": 1e-5, "vocab_size": 64, "tie_word_embeddings": false,
            "bos_token_id": 1, "eos_token_id": [2, 3], "rope_scaling": null,
            "torch_dtype": "bfloat16", "use_cache": true, "initializer_range": 0.02
        });
        let mut out = Self { config, tensors: Vec::new() };
        out.weight("model.embed_tokens", &[64, 32]);
        for layer in 0..2 {
            let mut add = |of: &str, shape: &[u64]| {
                out.weight(&format!("model.layers.{layer}.{of}"), shape);
            };
            add("input_layernorm", &[32]);
            add("self_attn.q_proj", &[32, 32]);
            add("self_attn.k_proj", &[16, 32]);
            add("self_attn.v_proj", &[16, 32]);
            add("self_attn.o_proj", &[32, 32]);
            add("post_attention_layernorm", &[32]);
            add("mlp.gate_proj", &[64, 32]);
            add("mlp.up_proj", &[64, 32]);
            add("mlp.down_proj", &[32, 64]);
        }
        out.weight("model.norm", &[32]);
        out.weight("lm_head", &[64, 32]);
        match model_type {
            "qwen2" => out.biases(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
            "qwen3" => {
                out.set("head_dim", json!(8));
                for layer in 0..2 {
                    for norm in ["q_norm", "k_norm"] {
                        out.weight(&format!("model.layers.{layer}.self_attn.{norm}"), &[8]);
                    }
                }
            }
            _ => {}
        }
        out
    }

    pub fn weight(&mut self, name: &str, shape: &[u64]) {
        self.tensors.push(tensor(&format!("{name}.weight"), "BF16", shape));
    }

    /// Adds a bias to each of these, in every layer.
    pub fn biases(&mut self, of: &[&str]) {
        let biases: Vec<Tensor> = self
            .tensors
            .iter()
            .filter(|weight| of.iter().any(|of| weight.name.ends_with(&format!("{of}.weight"))))
            .map(|weight| Tensor {
                name: weight.name.replace(".weight", ".bias"),
                shape: weight.shape[..1].to_vec(),
                ..weight.clone()
            })
            .collect();
        self.tensors.extend(biases);
    }

    pub fn set(&mut self, key: &str, value: Value) -> &mut Self {
        self.config[key] = value;
        self
    }

    /// Writes it anew.
    pub fn write(&self, path: &Path) {
        let _ = std::fs::remove_dir_all(path);
        std::fs::create_dir_all(path).unwrap();
        std::fs::write(path.join("config.json"), self.config.to_string()).unwrap();
        std::fs::write(path.join("model.safetensors"), safetensors(&self.tensors)).unwrap();
    }

    /// Writes it in two files with an index.
    pub fn write_split(&self, path: &Path) {
        self.write(path);
        std::fs::remove_file(path.join("model.safetensors")).unwrap();
        let mut index = json!({ "metadata": { "total_size": 1 }, "weight_map": {} });
        let halves = self.tensors.split_at(self.tensors.len() / 2);
        for (number, half) in [halves.0, halves.1].iter().enumerate() {
            let name = format!("model-0000{}-of-00002.safetensors", number + 1);
            std::fs::write(path.join(&name), safetensors(half)).unwrap();
            for tensor in *half {
                index["weight_map"][&tensor.name] = json!(name);
            }
        }
        std::fs::write(path.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }
}

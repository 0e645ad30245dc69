//! GGUF of every family: names, orders of rows, optional tensors, rope scaling.

use binfer_shard::spec::{RopeScaling, RowOrder};
use binfer_shard::{Checkpoint, Error};

use crate::gguf_writer::{F32, GgufWriter, Q8_0, TINY};
use crate::scratch;

fn open(name: &str, bytes: &[u8]) -> Result<Checkpoint, Error> {
    let path = scratch(&format!("gguf-families-{name}.gguf"));
    std::fs::write(&path, bytes).unwrap();
    Checkpoint::open(path)
}

/// The small llama as another architecture.
fn writer(architecture: &str) -> GgufWriter {
    let mut writer = TINY.writer();
    for (key, _) in &mut writer.pairs {
        if let Some(rest) = key.strip_prefix("llama.") {
            *key = format!("{architecture}.{rest}");
        }
    }
    writer.string("general.architecture", architecture);
    writer
}

fn add(writer: &mut GgufWriter, tensors: &[(&str, u64)]) {
    for (name, elements) in tensors {
        writer.tensor(&format!("blk.0.{name}"), &[*elements], F32);
    }
}

const QKV_BIAS: [(&str, u64); 3] = [("attn_q.bias", 64), ("attn_k.bias", 32), ("attn_v.bias", 32)];

fn scaling(source: &Checkpoint) -> RopeScaling {
    let gqa = crate::model::gqa(source.spec(), 0);
    gqa.rope.scaling
}

#[test]
fn qwen2_has_biases_and_plain_rows() {
    let mut qwen2 = writer("qwen2");
    let error = open("qwen2-without", &qwen2.bytes()).unwrap_err().to_string();
    assert!(error.contains("lacks tensors: blk.0.attn_q.bias"), "{error}");
    let mut packed = qwen2.clone();
    for (name, elements) in QKV_BIAS {
        packed.tensor(&format!("blk.0.{name}"), &[elements], Q8_0);
    }
    let error = open("qwen2-packed", &packed.bytes()).unwrap_err().to_string();
    assert!(error.contains("attn_q.bias is Q8_0, which needs rows of whole blocks"), "{error}");
    add(&mut qwen2, &QKV_BIAS);
    let source = open("qwen2", &qwen2.bytes()).unwrap();
    let bias = source.spec().tensor("layers.0.attn.qkv.bias").unwrap();
    let shapes: Vec<_> = bias.parts.iter().map(|part| (part.rows, part.cols)).collect();
    assert_eq!(shapes, [(64, 1), (32, 1), (32, 1)]);
    let qkv = source.spec().tensor("layers.0.attn.qkv").unwrap();
    assert!(qkv.parts.iter().chain(&bias.parts).all(|part| part.row_order == RowOrder::AsIs));
}

#[test]
fn qwen3_has_norms_of_heads_and_yarn_where_said() {
    let mut qwen3 = writer("qwen3");
    add(&mut qwen3, &[("attn_q_norm.weight", 16), ("attn_k_norm.weight", 16)]);
    qwen3.string("qwen3.rope.scaling.type", "yarn").f32("qwen3.rope.scaling.factor", 4.0);
    qwen3.u32("qwen3.rope.scaling.original_context_length", 4096);
    let source = open("qwen3", &qwen3.bytes()).unwrap();
    for name in ["layers.0.attn.q_norm", "layers.0.attn.k_norm"] {
        let part = &source.spec().tensor(name).unwrap().parts[0];
        assert_eq!((part.rows, part.cols), (1, 16));
    }
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        original_context: 4096,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: 0.1 * 4.0_f64.ln() + 1.0,
        truncate: true,
    };
    assert_eq!((scaling(&source), source.spec().context_max), (yarn, 16384));
    qwen3.string("qwen3.rope.scaling.type", "longrope");
    let error = open("longrope", &qwen3.bytes()).unwrap_err().to_string();
    assert!(error.contains("qwen3.rope.scaling.type \"longrope\" is not supported"), "{error}");
}

#[test]
fn biases_of_llama_come_in_its_order_of_rows() {
    let mut llama = writer("llama");
    add(&mut llama, &QKV_BIAS);
    let source = open("llama-bias", &llama.bytes()).unwrap();
    let bias = source.spec().tensor("layers.0.attn.qkv.bias").unwrap();
    let orders: Vec<_> = bias.parts.iter().map(|part| part.row_order).collect();
    let interleaved = RowOrder::LlamaCppInterleaved { head_dim: 16 };
    assert_eq!(orders, [interleaved, interleaved, RowOrder::AsIs]);
}

#[test]
fn rope_scaling_worked_out_by_the_converter() {
    let mut llama = writer("llama");
    llama.tensor("rope_freqs.weight", &[8], F32);
    let mut bytes = llama.bytes();
    let start = bytes.len() - 32;
    // Base 100,000 over 16 elements: five waves are shorter than 2,048, the others longer than
    // 8,192.
    for (pair, divisor) in [1.0_f32, 1.0, 1.0, 1.0, 1.0, 8.0, 8.0, 8.0].iter().enumerate() {
        bytes[start + 4 * pair..][..4].copy_from_slice(&divisor.to_le_bytes());
    }
    let source = open("rope-freqs", &bytes).unwrap();
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192,
    };
    assert_eq!(scaling(&source), llama3);
    bytes[start + 4 * 4..][..4].copy_from_slice(&1.5_f32.to_le_bytes());
    let error = open("rope-freqs-other", &bytes).unwrap_err().to_string();
    assert!(error.contains("rope_freqs.weight: not the divisors of Llama 3"), "{error}");
}

#[test]
fn experts_of_old_files_have_tensors_of_their_own() {
    let mut old = writer("llama");
    old.tensors.retain(|tensor| !["gate", "up", "down"].iter().any(|of| tensor.name.contains(of)));
    old.u32("llama.expert_count", 4).u32("llama.expert_used_count", 1);
    old.tensor("blk.0.ffn_gate_inp.weight", &[64, 4], F32);
    for expert in 0..4 {
        old.tensor(&format!("blk.0.ffn_gate.{expert}.weight"), &[64, 128], Q8_0);
        old.tensor(&format!("blk.0.ffn_up.{expert}.weight"), &[64, 128], Q8_0);
        old.tensor(&format!("blk.0.ffn_down.{expert}.weight"), &[128, 64], Q8_0);
    }
    let source = open("old-experts", &old.bytes()).unwrap();
    let gate_up = source.spec().tensor("layers.0.ffn.experts.gate_up").unwrap();
    let names: Vec<&str> = gate_up.parts[..4].iter().map(|part| &*part.source).collect();
    let name = |of: &str| format!("blk.0.{of}.weight");
    let wanted = ["ffn_gate_exps.0", "ffn_up_exps.0", "ffn_gate_exps.1", "ffn_up_exps.1"];
    assert_eq!(names, wanted.map(name));
    crate::shards::check(&scratch("gguf-families-old-experts.gguf"), "old-experts");
}

//! From metadata to spec, and what is refused by name on the way.

use binfer_shard::spec::{ActivationFn, Ffn, KvKind, KvShape, RowOrder, TensorCut};
use binfer_shard::{Checkpoint, DType, Error};

use crate::gguf_writer::{F32, GgufWriter, Q4_1, Q8_0, SMOLLM2, TINY};
use crate::scratch;

fn open(name: &str, writer: &GgufWriter) -> Result<Checkpoint, Error> {
    let path = scratch(&format!("families-{name}.gguf"));
    writer.write_sparse(&path);
    Checkpoint::open(path)
}

#[test]
fn the_demo_model() {
    let source = open("smollm2", &SMOLLM2.writer()).unwrap();
    let spec = source.spec();
    assert_eq!((spec.hidden, spec.vocab, spec.context_max), (576, 49152, 8192));
    assert_eq!((spec.norm_eps, spec.tied_head, spec.head_tensor()), (1e-5, true, "embed"));
    assert_eq!(spec.layers.len(), 30);
    let gqa = crate::model::gqa(spec, 29);
    assert_eq!((gqa.heads, gqa.kv_heads, gqa.head_dim), (9, 3, 64));
    assert_eq!((gqa.rope.theta, gqa.rope.dims), (100_000.0, 64));
    assert_eq!(spec.layers[0].ffn, Ffn::Glu { inner: 1536, act: ActivationFn::Silu });
    let kv_group = spec.kv_groups[0];
    assert_eq!((kv_group.kind, kv_group.layers, kv_group.block_tokens), (KvKind::Full, 30, 64));
    assert_eq!(kv_group.shape, KvShape::Heads { kv_heads: 3, head_dim: 64 });
    assert_eq!((spec.tensors.len(), spec.weight_bytes()), (2 + 30 * 6, 96_576_768));

    let qkv = spec.tensor("layers.3.attn.qkv").unwrap();
    assert_eq!(qkv.cut, TensorCut::QkvHeads);
    let rows: Vec<u32> = qkv.parts.iter().map(|part| part.rows).collect();
    assert_eq!(rows, [576, 192, 192]);
    assert_eq!(qkv.parts[1].source, "blk.3.attn_k.weight");
    assert_eq!(qkv.parts[1].row_order, RowOrder::LlamaCppInterleaved { head_dim: 64 });
    assert_eq!(qkv.parts[2].row_order, RowOrder::AsIs);
    assert_eq!(spec.tensor("embed").unwrap().parts[0].dtype, DType::Q8_0);
    assert_eq!(spec.tensor("final.norm").unwrap().parts[0].rows, 1);
}

#[test]
fn a_head_of_its_own() {
    let mut writer = TINY.writer();
    writer.tensor("output.weight", &[64, 130], Q4_1);
    let source = open("untied", &writer).unwrap();
    assert_eq!((source.spec().tied_head, source.spec().head_tensor()), (false, "head"));
    assert_eq!(source.spec().tensors.last().unwrap().name, "head");
}

#[test]
fn what_may_be_left_out() {
    let mut writer = TINY.writer();
    writer.remove("llama.rope.freq_base").remove("tokenizer.ggml.tokens");
    writer.string("llama.rope.scaling.type", "none").u32("llama.expert_count", 0);
    writer.u32("llama.vocab_size", 130).string("general.name", "anything");
    let source = open("defaults", &writer).unwrap();
    let gqa = crate::model::gqa(source.spec(), 0);
    assert_eq!(gqa.rope.theta, 10_000.0);
}

/// What a spoiler does to a good file, and what must be said of it.
type Case = (&'static str, fn(&mut GgufWriter), &'static str);

#[test]
fn refusals() {
    let cases: &[Case] = &[
        (
            "other",
            |w| _ = w.string("general.architecture", "gemma3"),
            "architecture gemma3 is not supported yet; supported: deepseek2, gpt-oss, llama, qwen2",
        ),
        (
            "architecture",
            |w| _ = w.remove("general.architecture"),
            "metadata key general.architecture is missing",
        ),
        (
            "scaling",
            |w| _ = w.string("llama.rope.scaling.type", "yarn"),
            "metadata key llama.rope.scaling.factor is missing",
        ),
        ("experts", |w| _ = w.u32("llama.expert_count", 8), "llama.expert_used_count is missing"),
        ("window", |w| _ = w.u32("llama.attention.sliding_window", 9), "sliding_window = 9"),
        ("unheard", |w| _ = w.f32("llama.logit_scale", 0.5), "llama.logit_scale = 0.5"),
        (
            "adapter",
            |w| _ = w.string("general.type", "adapter"),
            "holds a \"adapter\", not a model",
        ),
        ("quants", |w| _ = w.u32("general.quantization_version", 1), "quantization version 1"),
        (
            "missing",
            |w| w.tensors.retain(|t| !t.name.contains("ffn_up")),
            "lacks tensors: blk.0.ffn_up",
        ),
        (
            "bias",
            |w| _ = w.tensor("blk.0.attn_q.bias", &[64], F32),
            "lacks tensors: blk.0.attn_k.bias, blk.0.attn_v.bias",
        ),
        (
            "rope",
            |w| _ = w.tensor("rope_freqs.weight", &[8], F32),
            "rope_freqs.weight: not the divisors of Llama 3's rope scaling",
        ),
        (
            "shape",
            |w| w.tensor_mut("blk.0.ffn_gate.weight").shape = vec![128, 64],
            "of another shape ([cols, rows]): blk.0.ffn_gate.weight is [128, 64], not [64, 128]",
        ),
        ("heads", |w| _ = w.u32("llama.attention.head_count", 0), "head_count is 0"),
        (
            "share",
            |w| _ = w.u32("llama.attention.head_count_kv", 3),
            "4 query heads cannot share 3",
        ),
        ("many", |w| _ = w.u32("llama.attention.head_count", 1 << 31), "head width of 0"),
        ("wide", |w| _ = w.u32("llama.attention.key_length", 1 << 31), "are too many"),
        ("values", |w| _ = w.u32("llama.attention.value_length", 8), "values of 8 differ"),
        ("partial", |w| _ = w.u32("llama.rope.dimension_count", 8), "rope over 8 of 16 elements"),
        ("theta", |w| _ = w.f32("llama.rope.freq_base", -1.0), "llama.rope.freq_base is -1"),
        ("nan", |w| _ = w.f32("llama.rope.freq_base", f32::NAN), "should be a finite float"),
        ("eps", |w| _ = w.f32("llama.attention.layer_norm_rms_epsilon", 7.0), "epsilon is 7"),
        ("layers", |w| _ = w.u32("llama.block_count", u32::MAX), "fewer tensors than that"),
        ("vocab", |w| _ = w.u32("llama.vocab_size", 129), "vocab_size is 129, but 130 embeddings"),
        ("tokens", |w| _ = w.strings("tokenizer.ggml.tokens", &["t"; 131]), "131 tokens, but the"),
    ];
    for (name, spoil, says) in cases {
        let mut writer = TINY.writer();
        spoil(&mut writer);
        let message = open(name, &writer).expect_err(name).to_string();
        assert!(message.contains(&format!("families-{name}.gguf: ")), "{message}");
        assert!(message.contains(says), "{name}: {message}");
    }
}

#[test]
fn all_complaints_at_once_and_lists_end() {
    let mut writer = TINY.writer();
    writer.tensors.retain(|tensor| !tensor.name.contains("attn_v"));
    for extra in 0..20 {
        writer.tensor(&format!("extra.{extra:02}"), &[32], Q8_0);
    }
    let message = open("complaints", &writer).unwrap_err().to_string();
    assert!(message.contains("lacks tensors: blk.0.attn_v.weight; it has tensors"), "{message}");
    assert!(message.ends_with("extra.07 and 12 more"), "{message}");
}

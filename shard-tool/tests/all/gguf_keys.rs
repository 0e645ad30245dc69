//! GGUF metadata that nobody reads: what matters refuses, the rest is silent or told of.

use binfer_shard::spec::RopeScaling;
use binfer_shard::{Checkpoint, Error};
use proptest::prelude::*;

use crate::gguf_writer::{GgufWriter, TINY};
use crate::scratch;

fn open(name: &str, writer: &GgufWriter) -> Result<Checkpoint, Error> {
    let path = scratch(&format!("gguf-keys-{name}.gguf"));
    writer.write_sparse(&path);
    Checkpoint::open(path)
}

#[test]
fn notes_of_converters_and_quantisers_are_silent() {
    let mut writer = TINY.writer();
    writer.string("general.name", "x").string("general.license", "mit");
    writer.string("quantize.imatrix.file", "x.dat").u32("quantize.imatrix.entries_count", 9);
    writer.string("imatrix.datasets", "x").string("mradermacher.quantized_by", "x");
    writer.string("llama.tensor_data_layout", "Meta AI original pth");
    writer.u32("llama.expert_count", 0).u32("llama.expert_used_count", 0);
    writer.u32("llama.attention.sliding_window", 0).f32("llama.logit_scale", 1.0);
    writer.f32("llama.attn_logit_softcapping", 0.0).f32("llama.attention.scale", 0.0);
    writer.f32("llama.attention.layer_norm_epsilon", 1e-5);
    let source = open("silent", &writer).unwrap();
    assert!(source.notes().is_empty(), "{:?}", source.notes());
}

#[test]
fn other_keys_are_told_of_in_one_line() {
    let mut writer = TINY.writer();
    writer.string("llama.favourite", "blue").u32("qwen2.block_count", 7);
    writer.f32("rope.scaling.factor", 4.0);
    let source = open("told", &writer).unwrap();
    let [note] = source.notes() else { panic!("{:?}", source.notes()) };
    let wanted = "gguf-keys-told.gguf: ignored, as without effect: llama.favourite = \"blue\", \
                  qwen2.block_count = 7, rope.scaling.factor = 4";
    assert!(note.ends_with(wanted), "{note}");
}

#[test]
fn keys_that_look_as_if_they_mattered_are_refused_by_name() {
    for key in [
        "attention.scale",
        "attention.clamp_kqv",
        "attention.new_kind",
        "rope.scaling.attn_factor",
        "rope.scaling.unheard_of",
        "rope.dimension_sections",
        "expert_weights_scale",
        "expert_gating_func",
        "logit_scale",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "embedding_scale",
        "residual_scale",
        "nextn_predict_layers",
        "ssm.conv_kernel",
    ] {
        let mut writer = TINY.writer();
        writer.f32(&format!("llama.{key}"), 0.5);
        let message = open("refused", &writer).map(|_| ()).expect_err(key).to_string();
        let wanted = format!("settings that are not supported yet: llama.{key} = 0.5");
        assert!(message.contains(&wanted), "{message}");
    }
}

#[test]
fn turns_of_yarn_are_read() {
    let mut writer = TINY.writer();
    writer.string("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4.0);
    writer.f32("llama.rope.scaling.yarn_beta_fast", 16.0);
    writer.f32("llama.rope.scaling.yarn_beta_slow", 2.0);
    writer.f32("llama.rope.scaling.yarn_ext_factor", 1.0);
    let source = open("betas", &writer).unwrap();
    let gqa = crate::model::gqa(source.spec(), 0);
    let RopeScaling::Yarn { beta_fast, beta_slow, .. } = gqa.rope.scaling else { panic!() };
    assert_eq!((beta_fast, beta_slow), (16.0, 2.0));
    writer.f32("llama.rope.scaling.yarn_beta_slow", 0.0);
    let message = open("betas", &writer).unwrap_err().to_string();
    assert!(message.contains("yarn_beta_slow is 0"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the key and its value: told of or refused, and never in silence.
    #[test]
    fn any_key_is_told_of_or_refused(key in "\\PC{1,24}", value in any::<f32>()) {
        let key = format!("llama.~{key}");
        let mut writer = TINY.writer();
        writer.f32(&key, value);
        match open("any", &writer) {
            Ok(source) => prop_assert!(source.notes().concat().contains(&key)),
            Err(error) => prop_assert!(error.to_string().contains("not supported yet: llama.~")),
        }
    }
}

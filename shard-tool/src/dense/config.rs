//! `config.json` of a dense decoder, read and checked.

use serde_json::Value;

use super::names::HUGGING_FACE;
use super::{Dense, Window, check_heads, kept, norm_eps, rope};
use crate::catalog::Catalog;
use crate::families::Family;
use crate::hf::Config;
use crate::spec::{Gqa, KvKind};
use crate::{Error, ErrorKind, ModelSpec};

/// Keys that are read here.
const UNDERSTOOD: &[&str] = &[
    "architectures",
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "vocab_size",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
];

/// Keys that change nothing about what the model computes when it is served.
const HARMLESS: &[&str] = &[
    "_attn_implementation_autoset",
    "_name_or_path",
    "attention_dropout",
    "dtype",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "label2id",
    "max_sequence_length",
    "output_attentions",
    "output_hidden_states",
    "pretraining_tp",
    "return_dict",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
];

/// Whether a setting says "as usual", so that ignoring it changes nothing.
fn without_effect(key: &str, value: &Value) -> bool {
    match key {
        "add_cross_attention"
        | "attention_bias"
        | "mlp_bias"
        | "is_encoder_decoder"
        | "rope_interleaved"
        | "tie_encoder_decoder"
        | "use_mrope" => *value == Value::Bool(false),
        "is_llama_config" => *value == Value::Bool(true),
        "chunk_size_feed_forward" => value.as_u64() == Some(0),
        "partial_rotary_factor" => value.as_f64() == Some(1.0),
        _ => false,
    }
}

/// Reads the spec out of `config.json` and binds it to the tensors.
pub(crate) fn from_config(
    family: &Family,
    config: &Config,
    catalog: &Catalog,
) -> Result<ModelSpec, Error> {
    let understood = [UNDERSTOOD, HARMLESS, rope::UNDERSTOOD, family.keys];
    config.refuse_unknown(&understood, without_effect)?;
    config.token_ids("eos_token_id")?;
    let refuse = |cause: String| config.error(ErrorKind::Mismatch, cause);
    match config.required("hidden_act", config.string("hidden_act"))? {
        "silu" => {}
        other => {
            let cause = format!("activation {other:?} is not supported yet; supported: \"silu\"");
            return Err(config.error(ErrorKind::Unsupported, cause));
        }
    }
    let (hidden, heads) =
        (config.positive("hidden_size")?, config.positive("num_attention_heads")?);
    let head_dim = config.u32("head_dim")?.unwrap_or(hidden / heads);
    let kv_heads = config.u32("num_key_value_heads")?;
    let kv_heads = kv_heads.or(family.multi_head_default.then_some(heads));
    let kv_heads = config.required("num_key_value_heads", Ok(kv_heads))?;
    let (rope, context_max) = rope::read(config, head_dim)?;
    let features = (family.features)(config)?;
    let eps = config.required("rms_norm_eps", config.float("rms_norm_eps"))?;
    let kept = kept(config.positive("num_hidden_layers")?, features.window, catalog);
    let kept = by_layer_types(config, kept.map_err(refuse)?, features.window)?;
    // A head that is stored although tied is used: transformers does so when the two differ.
    let tied = config.bool("tie_word_embeddings")?.unwrap_or(false);
    let dense = Dense {
        architecture: family.name,
        hidden,
        inner: config.positive("intermediate_size")?,
        vocab: config.positive("vocab_size")?,
        context_max,
        norm_eps: norm_eps("rms_norm_eps", eps).map_err(refuse)?,
        tied_head: tied && catalog.tensor("lm_head.weight").is_none(),
        gqa: check_heads(Gqa { heads, kv_heads, head_dim, rope }).map_err(refuse)?,
        kept,
        features,
    };
    dense.spec(&HUGGING_FACE, catalog, config.folder())
}

/// What each layer keeps by `layer_types`, where that is given, else `kept`.
fn by_layer_types(
    config: &Config,
    kept: Vec<KvKind>,
    window: Option<Window>,
) -> Result<Vec<KvKind>, Error> {
    let Some(types) = config.strings("layer_types")? else { return Ok(kept) };
    if types.len() != kept.len() {
        let cause = format!("{} layer_types for {} layers", types.len(), kept.len());
        return Err(config.error(ErrorKind::Mismatch, cause));
    }
    let kind = |name: &&str| match (*name, window) {
        ("full_attention", _) => Ok(KvKind::Full),
        ("sliding_attention", Some(window)) => Ok(KvKind::Window(window.positions)),
        ("sliding_attention", None) => {
            let cause = "layer_types has sliding_attention, but there is no sliding window";
            Err(config.error(ErrorKind::Mismatch, cause))
        }
        (other, _) => {
            let cause = format!("layer type {other:?} is not supported yet");
            Err(config.error(ErrorKind::Unsupported, cause))
        }
    };
    types.iter().map(kind).collect()
}

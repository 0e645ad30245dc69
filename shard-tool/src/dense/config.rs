//! `config.json` of a dense decoder, read and checked.

use super::family::{Described, Family, Window};
use super::names::{HUGGING_FACE, Names};
use super::rope::{self, RopeContext, RopeSettings};
use super::{Dense, check_heads, kv_kinds, norm_eps};
use crate::hf::ConfigJson;
use crate::keys::CONFIG_JSON;
use crate::spec::{Gqa, KvKind};
use crate::weight_map::WeightMap;
use crate::{Error, ErrorKind};

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
];

/// The type of each layer, read for the families that list this key.
const LAYER_TYPES: &str = "layer_types";
/// The activation function, under the names that transformers has for it.
const SILU: &[&str] = &["silu", "swish"];
/// The default of `rms_norm_eps` in transformers' classes.
const RMS_NORM_EPS_DEFAULT: f64 = 1e-6;

/// Reads the spec out of `config.json` and binds it to the tensors.
pub(crate) fn from_config(
    family: &Family,
    config: &ConfigJson,
    weight_map: &WeightMap,
) -> Result<Described, Error> {
    let understood = [UNDERSTOOD, rope::UNDERSTOOD, family.keys];
    let mut ignored = config.judge(&understood, CONFIG_JSON)?;
    let refuse = |cause: String| config.error(ErrorKind::Mismatch, cause);
    check_activation(config)?;
    let features = (family.features)(config)?;
    let layers = config.positive("num_hidden_layers")?;
    let mut kv_kinds = kv_kinds(layers, features.window, weight_map, refuse)?;
    if family.keys.contains(&LAYER_TYPES) {
        kv_kinds = by_layer_types(config, kv_kinds, features.window)?;
    }
    let (defaults, hidden) = (&family.defaults, config.positive("hidden_size")?);
    let heads = config.positive("num_attention_heads")?;
    let head_dim = or_default(config, "head_dim", defaults.head_dim, hidden / heads)?;
    let kv_heads = or_default(config, "num_key_value_heads", defaults.kv_heads, heads)?;
    let positions = match config.get("max_position_embeddings") {
        Some(_) => config.positive("max_position_embeddings")?,
        None => defaults.positions,
    };
    let context = RopeContext { config, head_dim, positions, kv_kinds: &kv_kinds };
    let RopeSettings { rope, context_max, ignored: of_rope } = rope::read(context)?;
    ignored.extend(of_rope);
    let eps = config.float("rms_norm_eps")?.unwrap_or(RMS_NORM_EPS_DEFAULT);
    let tied = config.bool("tie_word_embeddings")?.unwrap_or(false);
    let stored = StoredEmbeddings::of(weight_map);
    let names = match stored {
        StoredEmbeddings { embed: false, head: true } if tied => {
            Names { embed: HUGGING_FACE.head, ..HUGGING_FACE }
        }
        _ => HUGGING_FACE,
    };
    let dense = Dense {
        architecture: family.name,
        hidden,
        inner: config.positive("intermediate_size")?,
        vocab: config.positive("vocab_size")?,
        context_max,
        norm_eps: norm_eps("rms_norm_eps", eps, refuse)?,
        // A head that is stored although tied is used: transformers does so when the two differ.
        tied_head: tied && !(stored.embed && stored.head),
        gqa: check_heads(Gqa { heads, kv_heads, head_dim, rope }, refuse)?,
        kv_kinds,
        features,
    };
    let spec = dense.spec(&names, weight_map, config.folder())?;
    Ok(Described { spec, notes: config.note(&ignored) })
}

fn check_activation(config: &ConfigJson) -> Result<(), Error> {
    match config.string("hidden_act")? {
        Some(other) if !SILU.contains(&other) => {
            let cause = format!("activation {other:?} is not supported yet; supported: \"silu\"");
            Err(config.error(ErrorKind::Unsupported, cause))
        }
        _ => Ok(()),
    }
}

/// Which tensors of a tied pair are stored: one under either name, or both.
struct StoredEmbeddings {
    embed: bool,
    head: bool,
}

impl StoredEmbeddings {
    fn of(weight_map: &WeightMap) -> Self {
        let has = |name| weight_map.tensor(&format!("{name}.weight")).is_some();
        Self { embed: has(HUGGING_FACE.embed), head: has(HUGGING_FACE.head) }
    }
}

/// An integer; `default` where the key is not there, `null` where it is null.
fn or_default(
    config: &ConfigJson,
    key: &str,
    default: Option<u32>,
    null: u32,
) -> Result<u32, Error> {
    let default = if config.has(key) { None } else { default };
    Ok(config.u32(key)?.or(default).unwrap_or(null))
}

/// What each layer keeps by `layer_types`, where that is given, else `kv_kinds`.
fn by_layer_types(
    config: &ConfigJson,
    kv_kinds: Vec<KvKind>,
    window: Option<Window>,
) -> Result<Vec<KvKind>, Error> {
    let Some(types) = config.strings(LAYER_TYPES)? else { return Ok(kv_kinds) };
    if types.len() != kv_kinds.len() {
        let cause = format!("{} layer_types for {} layers", types.len(), kv_kinds.len());
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

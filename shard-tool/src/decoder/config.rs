//! `config.json` of a decoder, read and checked.

use super::attention::{self, Attention};
use super::checks::{check_mixture, kv_kinds, norm_eps};
use super::family::{Described, Family, Window};
use super::mixture::ffns;
use super::names::Names;
use super::quantisation::{QUANTISATION, Quantisation};
use super::{Decoder, rope};
use crate::hf::ConfigJson;
use crate::keys::CONFIG_JSON;
use crate::spec::KvKind;
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
    QUANTISATION,
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
    weight_map: &mut WeightMap,
) -> Result<Described, Error> {
    let of_attention = attention::understood(family.attention);
    let of_mixture = family.mixture.as_ref().map_or(&[][..], |form| form.keys);
    let understood = [UNDERSTOOD, rope::UNDERSTOOD, of_attention, of_mixture, family.keys];
    let mut ignored = config.judge(&understood, CONFIG_JSON)?;
    let refuse = |cause: String| config.error(ErrorKind::Mismatch, cause);
    check_activation(config)?;
    let features = (family.features)(config)?;
    let layers = config.positive("num_hidden_layers")?;
    let mut kv_kinds = kv_kinds(layers, features.window, weight_map, refuse)?;
    if family.keys.contains(&LAYER_TYPES) {
        kv_kinds = by_layer_types(config, kv_kinds, features.window)?;
    }
    let hidden = config.positive("hidden_size")?;
    let Attention { mixer, rope } = attention::read(family, config, hidden, &kv_kinds)?;
    ignored.extend(rope.ignored);
    let mixture = family.mixture.as_ref().map(|form| (form.read)(config)).transpose()?;
    if let Some(mixture) = &mixture {
        check_mixture(&mixture.moe, (hidden, layers as usize), refuse)?;
    }
    let inner = || config.positive("intermediate_size");
    let eps = config.float("rms_norm_eps")?.unwrap_or(RMS_NORM_EPS_DEFAULT);
    let tied = config.bool("tie_word_embeddings")?.unwrap_or(false);
    let stored = StoredEmbeddings::of(&family.names, weight_map);
    let names = match stored {
        StoredEmbeddings { embed: false, head: true } if tied => {
            Names { embed: family.names.head, ..family.names }
        }
        _ => family.names,
    };
    let decoder = Decoder {
        architecture: family.name,
        hidden,
        vocab: config.positive("vocab_size")?,
        context_max: rope.context_max,
        norm_eps: norm_eps("rms_norm_eps", eps, refuse)?,
        // A head that is stored although tied is used: transformers does so when the two differ.
        tied_head: tied && !(stored.embed && stored.head),
        mixer,
        ffns: ffns(layers, mixture.as_ref(), inner)?,
        kv_kinds,
        features,
        quantisation: Quantisation::read(config)?.check(config, mixture.is_some())?,
    };
    let (spec, of_tensors) = decoder.spec(&names, weight_map, config.folder())?;
    let mut notes = config.note(&ignored);
    notes.extend(of_tensors);
    Ok(Described { spec, notes })
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
    fn of(names: &Names, weight_map: &WeightMap) -> Self {
        let has = |name| weight_map.tensor(&format!("{name}.weight")).is_some();
        Self { embed: has(names.embed), head: has(names.head) }
    }
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

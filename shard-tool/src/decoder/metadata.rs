//! GGUF metadata of a decoder, read and checked.

use std::path::Path;

use super::checks::{check_heads, check_latent, check_mixture, kv_kinds, mismatch, norm_eps};
use super::family::{Described, Family, GgufForm, Window};
use super::metadata_keys::MetadataKeys;
use super::mixture::ffns;
use super::names::Names;
use super::quantisation::Quantisation;
use super::{Decoder, metadata_mixture, rope_freqs};
use crate::spec::{Gqa, Mixer, Mla, MlaDims, RopeScaling};
use crate::weight_map::WeightMap;
use crate::{Error, Gguf};

/// Reads the spec out of GGUF metadata and binds it to the tensors.
pub(crate) fn from_gguf(
    family: &Family,
    form: &GgufForm,
    gguf: &Gguf,
    (weight_map, path): (&mut WeightMap, &Path),
) -> Result<Described, Error> {
    let keys = MetadataKeys { metadata: &gguf.metadata, architecture: form.name, path };
    let of_mixture = match &form.mixture {
        Some(_) => metadata_mixture::understood(&keys)?,
        None => &[],
    };
    let notes = keys.judge(&[of_mixture, form.keys])?;
    let refuse = mismatch(path);
    let mut features = (form.features)(weight_map);
    if let Some(layers) = form.window {
        let positions = keys.positive("attention.sliding_window")?;
        features.window = Some(Window { positions, layers });
    }
    let layers = keys.positive("block_count")?;
    let kv_kinds = kv_kinds(layers, features.window, weight_map, &refuse)?;
    let hidden = keys.positive("embedding_length")?;
    let (mixer, context_max) = match keys.u32("attention.kv_lora_rank")? {
        Some(latent) => self::latent(&keys, form, latent)?,
        None => grouped(&keys, form, hidden, weight_map)?,
    };
    let mixture = match &form.mixture {
        Some(form) => metadata_mixture::read(&keys, form, weight_map)?,
        None => None,
    };
    if let Some((mixture, of_mixture)) = &mixture {
        check_mixture(&mixture.moe, (hidden, layers as usize), &refuse)?;
        features.mixture = *of_mixture;
    }
    let mixture = mixture.map(|(mixture, _)| mixture);
    let (eps_key, eps) = keys.required_float("attention.layer_norm_rms_epsilon")?;
    let decoder = Decoder {
        architecture: family.name,
        hidden,
        vocab: keys.vocab(weight_map)?,
        context_max,
        norm_eps: norm_eps(&eps_key, eps, &refuse)?,
        tied_head: weight_map.tensor("output.weight").is_none(),
        mixer,
        ffns: ffns(layers, mixture.as_ref(), || keys.positive("feed_forward_length"))?,
        kv_kinds,
        features,
        quantisation: Quantisation::None,
    };
    let names = Names { interleaved: form.interleaved, ..form.names };
    let (spec, of_tensors) = decoder.spec(&names, weight_map, path)?;
    Ok(Described { spec, notes: notes.into_iter().chain(of_tensors).collect() })
}

/// Grouped-query attention, and the positions that its rope reaches.
fn grouped(
    keys: &MetadataKeys<'_>,
    form: &GgufForm,
    hidden: u32,
    weight_map: &WeightMap,
) -> Result<(Mixer, u32), Error> {
    let refuse = mismatch(keys.path);
    let heads = keys.positive("attention.head_count")?;
    let head_dim = keys.u32("attention.key_length")?.unwrap_or(hidden / heads);
    let value_dim = keys.u32("attention.value_length")?.unwrap_or(head_dim);
    if value_dim != head_dim {
        let cause = format!("keys of width {head_dim} and values of {value_dim} differ");
        return Err(refuse(cause));
    }
    let (mut rope, context_max) = keys.rope(head_dim, form.truncated_yarn)?;
    if rope.dims != head_dim {
        let cause = format!("rope over {} of {head_dim} elements is not supported yet", rope.dims);
        return Err(refuse(cause));
    }
    if let Some(scaling) = rope_freqs::read(weight_map, keys.path, (rope.theta, rope.dims))? {
        if rope.scaling != RopeScaling::None {
            return Err(refuse("two kinds of rope scaling".to_owned()));
        }
        rope.scaling = scaling;
    }
    let kv_heads = keys.u32("attention.head_count_kv")?.unwrap_or(heads);
    let gqa = check_heads(Gqa { heads, kv_heads, head_dim, rope }, refuse)?;
    Ok((Mixer::Gqa(gqa), context_max))
}

/// Latent attention, and the positions that its rope reaches. Files of before April 2025 have the
/// widths of heads under the keys of other attention.
fn latent(keys: &MetadataKeys<'_>, form: &GgufForm, latent: u32) -> Result<(Mixer, u32), Error> {
    let refuse = mismatch(keys.path);
    let width = |mla: &str, key: &str| match keys.u32(mla)? {
        Some(width) => Ok(width),
        None => keys.positive(key),
    };
    let query = width("attention.key_length_mla", "attention.key_length")?;
    let value = width("attention.value_length_mla", "attention.value_length")?;
    let rotated = keys.positive("rope.dimension_count")?;
    let (mut rope, context_max) = keys.rope(rotated, form.truncated_yarn)?;
    let nope = query.checked_sub(rotated).filter(|nope| *nope > 0).ok_or_else(|| {
        refuse(format!("heads of {query} elements, of which {rotated} are rotated"))
    })?;
    let dims = MlaDims { nope, value, latent };
    let factor = keys.latent_score_factor(&mut rope.scaling)?;
    let mla = Mla {
        heads: keys.positive("attention.head_count")?,
        dims,
        q_rank: keys.u32("attention.q_lora_rank")?,
        rope,
        scale: super::attention::score_scale(nope, rotated, factor),
    };
    Ok((Mixer::Mla(check_latent(mla, refuse)?), context_max))
}

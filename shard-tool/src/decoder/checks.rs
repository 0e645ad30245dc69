//! Checks of a decoder's numbers, whichever container they come from.

use std::path::Path;

use crate::spec::{ExpertGroups, Gqa, GroupScore, KvKind, Mla, Moe};
use crate::weight_map::WeightMap;
use crate::{Error, ErrorKind};

use super::family::{Window, WindowLayers};

/// The most experts of a layer. Published models have up to 512.
const EXPERTS_MAX: u32 = 1 << 12;
/// The most experts of all layers. Published models have up to 30,000.
const ALL_EXPERTS_MAX: usize = 1 << 16;

pub(super) fn mismatch(path: &Path) -> impl Fn(String) -> Error {
    move |cause| Error::new(ErrorKind::Mismatch, cause).file(path)
}

/// Checks that numbers of heads fit each other.
pub(super) fn check_heads(gqa: Gqa, refuse: impl Fn(String) -> Error) -> Result<Gqa, Error> {
    let Gqa { heads, kv_heads, head_dim, .. } = gqa;
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(refuse(format!("{heads} query heads cannot share {kv_heads} KV heads")));
    }
    if head_dim == 0 || !head_dim.is_multiple_of(2) {
        return Err(refuse(format!("a head width of {head_dim} cannot be rotated in pairs")));
    }
    if heads.checked_mul(head_dim).is_none() {
        return Err(refuse(format!("{heads} heads of {head_dim} are too many")));
    }
    Ok(gqa)
}

/// Checks the widths of latent attention.
pub(super) fn check_latent(mla: Mla, refuse: impl Fn(String) -> Error) -> Result<Mla, Error> {
    let (dims, rotated) = (mla.dims, mla.rope.dims);
    if rotated == 0 || !rotated.is_multiple_of(2) {
        return Err(refuse(format!("{rotated} rotated elements of a head are not pairs")));
    }
    let rank = mla.q_rank.unwrap_or(1);
    if [mla.heads, dims.nope, dims.value, dims.latent, rank].contains(&0) {
        let cause = format!("latent attention of {} heads, rank {rank} and {dims:?}", mla.heads);
        return Err(refuse(cause));
    }
    let query = dims.nope.checked_add(rotated);
    let widest = query.map(|query| query.max(dims.latent).max(dims.value));
    let rows = widest.and_then(|widest| widest.checked_mul(mla.heads));
    let key_values = dims.nope.checked_add(dims.value).and_then(|each| each.checked_mul(mla.heads));
    if rows.is_none() || key_values.is_none() || dims.latent.checked_add(rotated).is_none() {
        return Err(refuse(format!("{} heads of {dims:?} are too many", mla.heads)));
    }
    Ok(mla)
}

/// Checks the numbers of a mixture of experts in a model so wide, with so many layers.
pub(super) fn check_mixture(
    moe: &Moe,
    (hidden, layers): (u32, usize),
    refuse: impl Fn(String) -> Error,
) -> Result<(), Error> {
    let (experts, top_k, scale) = (moe.experts, moe.routing.top_k, moe.routing.scale);
    if experts == 0 || moe.inner == 0 {
        return Err(refuse(format!("{experts} experts of {} columns", moe.inner)));
    }
    if experts > EXPERTS_MAX || layers.saturating_mul(experts as usize) > ALL_EXPERTS_MAX {
        return Err(refuse(format!("{experts} experts in each of {layers} layers are too many")));
    }
    if top_k == 0 || top_k > experts {
        return Err(refuse(format!("{top_k} of {experts} experts for each token")));
    }
    if !scale.is_finite() || scale <= 0.0 {
        return Err(refuse(format!("weights of experts are scaled by {scale}")));
    }
    let widest = moe.inner.checked_mul(2).map(|rows| rows.max(hidden));
    if widest.and_then(|rows| rows.checked_mul(experts)).is_none() {
        return Err(refuse(format!("{experts} experts of {} columns are too large", moe.inner)));
    }
    let Some(ExpertGroups { count, kept, score }) = moe.routing.expert_groups else {
        return Ok(());
    };
    if count == 0 || !experts.is_multiple_of(count) {
        return Err(refuse(format!("{experts} experts are not {count} equal groups")));
    }
    let each = experts / count;
    if kept == 0 || kept > count || top_k > kept.saturating_mul(each) {
        return Err(refuse(format!("{top_k} experts out of {kept} of {count} groups of {each}")));
    }
    if score == GroupScore::TopTwoSum && each < 2 {
        return Err(refuse(format!("the two best experts of groups of {each}")));
    }
    Ok(())
}

/// Which positions each layer's cache keeps. Refuses more layers than there are tensors.
pub(super) fn kv_kinds(
    layers: u32,
    window: Option<Window>,
    weight_map: &WeightMap,
    refuse: impl Fn(String) -> Error,
) -> Result<Vec<KvKind>, Error> {
    if !weight_map.may_hold(layers as usize) {
        return Err(refuse(format!("{layers} layers, but fewer tensors than that")));
    }
    let sees_window = |layer: u32, layers| match layers {
        WindowLayers::From(first) => layer >= first,
        WindowLayers::EvenBelow(end) => layer.is_multiple_of(2) && layer < end,
    };
    let kind = |layer| match window {
        Some(window) if sees_window(layer, window.layers) => KvKind::Window(window.positions),
        _ => KvKind::Full,
    };
    Ok((0..layers).map(kind).collect())
}

/// Epsilon of a norm, which must be at least 0 and below 1.
#[expect(clippy::cast_possible_truncation, reason = "single precision is what it is used in")]
pub(super) fn norm_eps(
    key: &str,
    eps: f64,
    refuse: impl Fn(String) -> Error,
) -> Result<f32, Error> {
    if (0.0..1.0).contains(&eps) { Ok(eps as f32) } else { Err(refuse(format!("{key} is {eps}"))) }
}

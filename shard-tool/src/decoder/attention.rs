//! Attention as `config.json` describes it: heads, widths and rope.

use super::checks::{check_heads, check_latent};
use super::family::{AttentionKind, Family};
use super::rope::{self, RopeContext, RopeSettings};
use crate::hf::ConfigJson;
use crate::spec::{Gqa, KvKind, Mixer, Mla, MlaDims};
use crate::{Error, ErrorKind};

/// Keys of latent attention.
const LATENT: &[&str] = &[
    "kv_lora_rank",
    "q_lora_rank",
    "qk_head_dim",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
];

/// The keys that are read here for a kind of attention.
pub(super) fn understood(kind: AttentionKind) -> &'static [&'static str] {
    match kind {
        AttentionKind::Grouped => &[],
        AttentionKind::Latent => LATENT,
    }
}

/// Attention of all layers, and what its rope says.
pub(super) struct Attention {
    pub(super) mixer: Mixer,
    pub(super) rope: RopeSettings,
}

/// Reads attention of a model so wide, whose layers keep these positions.
pub(super) fn read(
    family: &Family,
    config: &ConfigJson,
    hidden: u32,
    kv_kinds: &[KvKind],
) -> Result<Attention, Error> {
    let defaults = &family.defaults;
    let positions = match config.get("max_position_embeddings") {
        Some(_) => config.positive("max_position_embeddings")?,
        None => defaults.positions,
    };
    let heads = config.positive("num_attention_heads")?;
    let kv_heads = or_default(config, "num_key_value_heads", defaults.kv_heads, heads)?;
    let theta = defaults.theta;
    let rope = |head_dim| rope::read(RopeContext { config, head_dim, positions, theta, kv_kinds });
    let refuse = |cause: String| config.error(ErrorKind::Mismatch, cause);
    if family.attention == AttentionKind::Latent {
        if kv_heads != heads {
            let cause = format!("latent attention of {heads} heads and {kv_heads} KV heads");
            return Err(refuse(cause));
        }
        return latent(config, heads, rope);
    }
    let head_dim = or_default(config, "head_dim", defaults.head_dim, hidden / heads)?;
    let rope = rope(head_dim)?;
    let gqa = check_heads(Gqa { heads, kv_heads, head_dim, rope: rope.rope }, refuse)?;
    Ok(Attention { mixer: Mixer::Gqa(gqa), rope })
}

fn latent(
    config: &ConfigJson,
    heads: u32,
    rope: impl Fn(u32) -> Result<RopeSettings, Error>,
) -> Result<Attention, Error> {
    let dim = |key: &str, default| Ok::<_, Error>(config.u32(key)?.unwrap_or(default));
    let rotated = dim("qk_rope_head_dim", 64)?;
    let nope = dim("qk_nope_head_dim", 128)?;
    let dims = MlaDims { nope, value: dim("v_head_dim", 128)?, latent: dim("kv_lora_rank", 512)? };
    let q_rank = if config.has("q_lora_rank") { config.u32("q_lora_rank")? } else { Some(1536) };
    let refuse = |cause: String| config.error(ErrorKind::Mismatch, cause);
    if let Some(said) = config.u32("qk_head_dim")?
        && Some(said) != nope.checked_add(rotated)
    {
        return Err(refuse(format!("qk_head_dim is {said}, but its parts {nope} and {rotated}")));
    }
    let rope = rope(rotated)?;
    let scale = score_scale(nope, rotated, rope.score_factor);
    let mla = Mla { heads, dims, q_rank, rope: rope.rope, scale };
    Ok(Attention { mixer: Mixer::Mla(check_latent(mla, refuse)?), rope })
}

/// What scores of heads with so many elements are multiplied by.
#[expect(clippy::cast_possible_truncation, reason = "single precision is what it is used in")]
pub(super) fn score_scale(nope: u32, rotated: u32, factor: f64) -> f32 {
    (factor / (f64::from(nope) + f64::from(rotated)).sqrt()) as f32
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

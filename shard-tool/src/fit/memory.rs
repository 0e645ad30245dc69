//! Pure: bytes and elements that a rank takes for what a model's description says.

use crate::spec::{Ffn, KvGroupSpec, KvKind, Mixer};
use crate::{ModelSpec, RankLayout};

/// Tensors of the activation arena begin at multiples of so many elements: 256 bytes of f32.
const ARENA_UNIT: u64 = 64;

/// Bytes of KV cache that one position takes on a rank, over all layers.
#[must_use]
pub fn kv_position_bytes(spec: &ModelSpec, layout: &RankLayout, element_bytes: u64) -> u64 {
    spec.kv_groups.iter().map(|group| group_position_bytes(group, layout, element_bytes)).sum()
}

/// The part of [`kv_position_bytes`] that one group's layers take.
pub(super) fn group_position_bytes(
    group: &KvGroupSpec,
    layout: &RankLayout,
    element_bytes: u64,
) -> u64 {
    let width = match group.kind {
        KvKind::Full | KvKind::Window(_) => {
            2 * layout.kv_heads.len() as u64 * u64::from(group.head_dim)
        }
        KvKind::Latent(width) => u64::from(width),
    };
    element_bytes * width * u64::from(group.layers)
}

/// Blocks per KV group that fit into `bytes_max` on this rank, shared out so that every group
/// covers the same number of positions, and never more than `positions_max` need.
#[must_use]
pub fn blocks_within(
    spec: &ModelSpec,
    layout: &RankLayout,
    element_bytes: u64,
    bytes_max: u64,
    positions_max: u64,
) -> Vec<u32> {
    let position_bytes = kv_position_bytes(spec, layout, element_bytes);
    let positions = (bytes_max / position_bytes.max(1)).min(positions_max);
    let blocks = |block_tokens: u32| positions.div_ceil(u64::from(block_tokens.max(1)));
    spec.kv_groups
        .iter()
        .map(|group| u32::try_from(blocks(group.block_tokens)).unwrap_or(u32::MAX))
        .collect()
}

/// Sequences of so many positions that a pool holds at once: a sequence keeps all of its positions
/// where attention sees all, and those that the window can touch where it does not.
#[must_use]
pub fn sequences_within(spec: &ModelSpec, blocks: &[u32], positions: u32) -> u64 {
    let of_group = |(group, blocks): (&KvGroupSpec, &u32)| {
        let unit = group.block_tokens.max(1);
        let all = positions.div_ceil(unit).max(1);
        let needed = match group.kind {
            KvKind::Full | KvKind::Latent(_) => all,
            // A window that begins on the last position of a block touches the most blocks.
            KvKind::Window(window) => all.min((window.saturating_add(unit) - 2) / unit + 1),
        };
        u64::from(*blocks) / u64::from(needed)
    };
    spec.kv_groups.iter().zip(blocks).map(of_group).min().unwrap_or(0)
}

/// Elements of the activation arena (f32) for steps of so many input tokens that end in so many
/// outputs: the residual stream, QKV or the inside of the feed-forward, attention's output, logits.
#[must_use]
pub fn activation_elements(
    spec: &ModelSpec,
    layout: &RankLayout,
    tokens_max: u32,
    outputs_max: u32,
) -> u64 {
    let (heads, kv_heads) = (layout.q_heads.len() as u64, layout.kv_heads.len() as u64);
    let widest = |width: fn(u64, u64, &crate::spec::LayerSpec, u64) -> u64| {
        let inner = layout.ffn.len() as u64;
        spec.layers.iter().map(|layer| width(heads, kv_heads, layer, inner)).max().unwrap_or(0)
    };
    let wide = widest(|heads, kv_heads, layer, inner| {
        let (Mixer::Gqa(gqa), Ffn::Glu { .. }) = (layer.mixer, layer.ffn);
        ((heads + 2 * kv_heads) * u64::from(gqa.head_dim)).max(inner)
    });
    let mixed = widest(|heads, _, layer, _| {
        let Mixer::Gqa(gqa) = layer.mixer;
        heads * u64::from(gqa.head_dim)
    });
    let rows = [
        (tokens_max, u64::from(spec.hidden)),
        (tokens_max, wide),
        (tokens_max, mixed),
        (outputs_max, u64::from(spec.vocab)),
    ];
    rows.iter().map(|(rows, cols)| (u64::from(*rows) * cols).next_multiple_of(ARENA_UNIT)).sum()
}

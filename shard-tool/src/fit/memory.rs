//! Pure: bytes of KV cache that a rank takes for what a model's description says, and blocks.

use crate::spec::{KvKind, KvShape};
use crate::{ModelSpec, RankLayout};

/// What each layer's KV cache keeps of one position on a rank.
pub fn kv_shapes<'m>(
    spec: &'m ModelSpec,
    layout: &'m RankLayout,
) -> impl Iterator<Item = KvShape> + 'm {
    let layers = spec.layers.iter().zip(layout.layers());
    layers.map(|(layer, held)| match spec.kv_groups[layer.kv_group].shape {
        KvShape::Heads { head_dim, .. } => {
            let kv_heads = held.heads.kv_heads.end - held.heads.kv_heads.start;
            KvShape::Heads { kv_heads, head_dim }
        }
        KvShape::Latent { width } => KvShape::Latent { width },
    })
}

/// Bytes of KV cache that one position takes on a rank, over all layers.
#[must_use]
pub fn kv_position_bytes(spec: &ModelSpec, layout: &RankLayout, element_bytes: u64) -> u64 {
    kv_group_position_bytes(spec, layout, element_bytes).iter().sum()
}

/// The parts of [`kv_position_bytes`] that each KV group's layers take.
pub(super) fn kv_group_position_bytes(
    spec: &ModelSpec,
    layout: &RankLayout,
    element_bytes: u64,
) -> Vec<u64> {
    let mut bytes = vec![0; spec.kv_groups.len()];
    for (layer, shape) in spec.layers.iter().zip(kv_shapes(spec, layout)) {
        bytes[layer.kv_group] += element_bytes * shape.elements();
    }
    bytes
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
    let blocks = spec.kv_groups.iter().map(|kv_group| kv_group.blocks_of(positions));
    blocks.map(|blocks| u32::try_from(blocks).unwrap_or(u32::MAX)).collect()
}

/// Bytes of KV cache on a rank whose KV groups have so many blocks.
#[must_use]
pub fn kv_bytes(spec: &ModelSpec, layout: &RankLayout, element_bytes: u64, blocks: &[u32]) -> u64 {
    let position_bytes = kv_group_position_bytes(spec, layout, element_bytes);
    let groups = spec.kv_groups.iter().zip(blocks).zip(position_bytes);
    groups.map(|((kv_group, blocks), bytes)| bytes * kv_group.positions_of(*blocks)).sum()
}

/// Sequences of so many positions that a pool holds at once: a sequence keeps all of its positions
/// where attention sees all, and those that the window can touch where it does not.
#[must_use]
pub fn sequences_within(spec: &ModelSpec, blocks: &[u32], positions: u32) -> u64 {
    let of_group = spec.kv_groups.iter().zip(blocks).map(|(kv_group, blocks)| {
        let all = kv_group.blocks_of(positions.into()).max(1);
        let needed = match kv_group.kind {
            KvKind::Full => all,
            // A window that begins on the last position of a block touches the most blocks.
            KvKind::Window(window) => {
                all.min(kv_group.blocks_of(u64::from(window).saturating_sub(1)) + 1)
            }
        };
        u64::from(*blocks) / needed
    });
    of_group.min().unwrap_or(0)
}

//! Pure: bytes of KV cache that a rank takes for what a model's description says, and blocks.

use crate::spec::{KvGroupSpec, KvKind, KvShape};
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

/// Of each so many positions of the layers that see all, layers with a window keep one beyond what
/// running sequences need, so that prefixes in the cache can be continued: a window of 128 for
/// each 1,024 positions.
const CACHED_WINDOWS_PART: u64 = 8;

/// What a KV cache is to hold at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvDemand {
    /// Positions over all sequences.
    pub positions_max: u64,
    /// Sequences at once.
    pub sequences_max: u32,
    /// Input tokens of a step.
    pub tokens_per_step_max: u32,
}

/// Bytes of KV cache that one more position of a long sequence takes on a rank: in layers that see
/// all positions, or in all layers where none does.
#[must_use]
pub fn kv_position_bytes(spec: &ModelSpec, layout: &RankLayout, element_bytes: u64) -> u64 {
    let bytes = kv_group_position_bytes(spec, layout, element_bytes);
    let growing = spec.kv_groups.iter().zip(bytes).filter(|(kv_group, _)| grows(spec, kv_group));
    growing.map(|(_, bytes)| bytes).sum()
}

/// Bytes of KV cache that a sequence of so many positions takes on a rank in layers with a window,
/// beside [`kv_position_bytes`] of each position.
#[must_use]
pub fn kv_window_bytes(
    spec: &ModelSpec,
    layout: &RankLayout,
    element_bytes: u64,
    positions: u32,
) -> u64 {
    let bytes = kv_group_position_bytes(spec, layout, element_bytes);
    let windowed = spec.kv_groups.iter().zip(bytes).filter(|(kv_group, _)| !grows(spec, kv_group));
    let kept = |kv_group: &KvGroupSpec| {
        let blocks = blocks_of_sequence(kv_group, positions);
        u64::from(positions).min(blocks.saturating_mul(kv_group.block_tokens.into()))
    };
    windowed.map(|(kv_group, bytes)| bytes.saturating_mul(kept(kv_group))).sum()
}

/// Bytes per position that each KV group's layers take.
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

/// Whether a longer context takes more blocks of a KV group. A model whose layers all have a window
/// is counted as if they had none: its blocks are as many as there is room for.
fn grows(spec: &ModelSpec, kv_group: &KvGroupSpec) -> bool {
    let is_full = |kv_group: &KvGroupSpec| kv_group.kind == KvKind::Full;
    is_full(kv_group) || !spec.kv_groups.iter().any(is_full)
}

/// Positions of each KV group in a cache that holds so many `positions` of whole sequences. Layers
/// with a window need those that the windows of all sequences and one step can touch, and some for
/// cached prefixes; a longer context costs them nothing.
fn group_positions(
    spec: &ModelSpec,
    demand: KvDemand,
    positions: u64,
) -> impl Iterator<Item = u64> {
    spec.kv_groups.iter().map(move |kv_group| {
        if grows(spec, kv_group) {
            return positions;
        }
        let windows =
            blocks_of_sequence(kv_group, u32::MAX).saturating_mul(demand.sequences_max.into());
        let touched = windows.saturating_add(kv_group.blocks_of(demand.tokens_per_step_max.into()));
        let touched = touched.saturating_mul(kv_group.block_tokens.into());
        positions.min(touched.saturating_add(positions / CACHED_WINDOWS_PART))
    })
}

/// Most blocks that a sequence of so many positions owns in a KV group.
fn blocks_of_sequence(kv_group: &KvGroupSpec, positions: u32) -> u64 {
    let all = kv_group.blocks_of(positions.into());
    match kv_group.kind {
        KvKind::Full => all,
        // A window that begins on the last position of a block touches the most blocks.
        KvKind::Window(window) => {
            all.min(kv_group.blocks_of(u64::from(window).saturating_sub(1)) + 1)
        }
    }
}

/// Bytes of KV cache with which a rank holds so many `positions` of whole sequences.
#[must_use]
pub fn kv_bytes_for(
    spec: &ModelSpec,
    layout: &RankLayout,
    element_bytes: u64,
    demand: KvDemand,
    positions: u64,
) -> u64 {
    let bytes = kv_group_position_bytes(spec, layout, element_bytes);
    let of_group = group_positions(spec, demand, positions).zip(bytes);
    of_group.fold(0, |sum, (held, bytes)| sum.saturating_add(held.saturating_mul(bytes)))
}

/// Most positions of whole sequences that fit into `bytes_max` on this rank.
pub(super) fn positions_within(
    spec: &ModelSpec,
    layout: &RankLayout,
    element_bytes: u64,
    demand: KvDemand,
    bytes_max: u64,
) -> u64 {
    let position_bytes = kv_position_bytes(spec, layout, element_bytes);
    // Between these the last one that fits is searched.
    let (mut fits, mut most) = (0, bytes_max / position_bytes.max(1));
    while fits < most {
        let middle = most - (most - fits) / 2;
        if kv_bytes_for(spec, layout, element_bytes, demand, middle) <= bytes_max {
            fits = middle;
        } else {
            most = middle - 1;
        }
    }
    fits
}

/// Blocks per KV group that fit into `bytes_max` on this rank, shared out so that as many positions
/// of whole sequences as possible fit, and never more than the demand.
#[must_use]
pub fn blocks_within(
    spec: &ModelSpec,
    layout: &RankLayout,
    element_bytes: u64,
    demand: KvDemand,
    bytes_max: u64,
) -> Vec<u32> {
    let positions = positions_within(spec, layout, element_bytes, demand, bytes_max);
    let held = group_positions(spec, demand, positions.min(demand.positions_max));
    let blocks = spec.kv_groups.iter().zip(held).map(|(kv_group, held)| kv_group.blocks_of(held));
    blocks.map(|blocks| u32::try_from(blocks).unwrap_or(u32::MAX)).collect()
}

/// Positions of whole sequences that pools of so many blocks hold.
#[must_use]
pub fn kv_tokens(spec: &ModelSpec, blocks: &[u32]) -> u64 {
    let groups = spec.kv_groups.iter().zip(blocks);
    let growing = groups.filter(|(kv_group, _)| grows(spec, kv_group));
    growing.map(|(kv_group, blocks)| kv_group.positions_of(*blocks)).min().unwrap_or(0)
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
        u64::from(*blocks) / blocks_of_sequence(kv_group, positions).max(1)
    });
    of_group.min().unwrap_or(0)
}

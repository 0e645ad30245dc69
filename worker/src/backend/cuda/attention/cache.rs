//! Where attention's memory lies: caches of layers, tables of KV groups, what lies between kernels.

use binfer_kernels::attention_params::PrefillTile;
use binfer_kernels::list::DECODE_GQA_GROUP_MAX;
use binfer_kernels::params::ROPE_PAIRS_MAX;
use binfer_shard::spec::KvShape;

use super::config::{DECODE_BLOCKS_MAX, TILE_ROWS};
use super::latent_config::{EXPANDED_HEAD_BYTES, LATENT_HEAD_TILES_MAX};
use crate::backend::cuda::ffi::error::failed;
use crate::backend::cuda::formats::half::Half;
use crate::backend::{BackendError, KvHeadsLayout, KvLayerLayout, MemoryLayout};

/// Bytes of which everything begins at a multiple.
const ALIGNMENT: usize = 256;

/// Bytes of what latent attention has between its kernels: at least absorbed queries and sums of
/// 1,900 tokens with 16 heads of 576 and 512 elements, at most keys and values of 16 heads at
/// 32,768 positions.
const LATENT_WORKSPACE_BYTES: [usize; 2] = [64 << 20, 256 << 20];
/// Heads of all that read latents in published models, at most.
const LATENT_HEADS_MAX: usize = 128;

/// Where attention keeps what lies between its kernels.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::backend::cuda) struct AttentionPlaces {
    /// f32 `[tokens, 2 pairs]`: cosines and sines.
    pub(super) rope: u64,
    /// Pages and tiles of all KV groups, one group after the other.
    work_tables: u64,
    /// f32: sums of pairs of row and KV head, or of row and tile of heads, that blocks share.
    pub(super) partials: u64,
    /// u32 `[slots, kv_heads]` or `[slots, tiles of heads]`, zero between kernels.
    pub(super) arrivals: u64,
    /// What lies between the kernels of latent attention; nothing where no layer has it.
    pub(super) latent: u64,
    pub(super) latent_bytes: usize,
    /// u32 `[slots]`: the first page of a slot among those that are expanded.
    pub(super) first_pages: u64,
}

/// Where a layer's cache lies.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cuda) enum CudaLayerCache {
    Heads(CudaHeadsCache),
    Latent(CudaLatentCache),
}

/// Keys and values by head.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cuda) struct CudaHeadsCache {
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) shape: KvHeadsLayout,
}

/// One entry a position, `[block][token][width]`.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cuda) struct CudaLatentCache {
    pub(super) entries: u64,
    pub(super) width: usize,
    pub(super) blocks: usize,
    pub(super) block_tokens: usize,
}

/// Where a KV group's tables lie.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cuda) struct GroupTables {
    /// u32 `[slots, blocks_per_slot]`: its block tables.
    pub(in crate::backend::cuda) blocks: u64,
    /// Index of its first entry among those of all groups.
    pub(in crate::backend::cuda) first: usize,
    pub(in crate::backend::cuda) blocks_per_slot: usize,
    /// u32 `[slots + 1]`: pages before each decode row.
    pub(super) pages: u64,
    /// `PrefillTile [tiles]`: work of chunks.
    pub(super) tiles: u64,
}

/// Entries of all block tables.
pub(in crate::backend::cuda) fn block_table_entries(layout: &MemoryLayout) -> usize {
    layout.blocks_per_slot.iter().map(|blocks| blocks * layout.slots_max).sum()
}

/// Bytes of the pages and of the tiles of a KV group.
fn work_table_bytes(layout: &MemoryLayout) -> [usize; 2] {
    let tile_tokens_min = (TILE_ROWS / DECODE_GQA_GROUP_MAX) as usize;
    let tiles = layout.tokens_max / tile_tokens_min + layout.slots_max;
    let bytes = [4 * (layout.slots_max + 1), size_of::<PrefillTile>() * tiles];
    bytes.map(|bytes| bytes.next_multiple_of(ALIGNMENT))
}

/// Bytes of what latent attention has between its kernels: enough that no model needs more for one
/// sequence, within bounds.
fn latent_workspace_bytes(layout: &MemoryLayout) -> usize {
    let of_group = |kv: &KvLayerLayout| {
        layout.blocks_per_slot.get(kv.kv_group).map_or(0, |blocks| blocks * kv.block_tokens)
    };
    let positions = layout.kv.iter().map(of_group).max().unwrap_or(0);
    let [least, most] = LATENT_WORKSPACE_BYTES;
    (positions * LATENT_HEADS_MAX * EXPANDED_HEAD_BYTES).clamp(least, most)
}

impl AttentionPlaces {
    /// Lays them out in places that `take` gives for so many bytes.
    pub(in crate::backend::cuda) fn lay_out(
        layout: &MemoryLayout,
        take: &mut dyn FnMut(usize) -> u64,
    ) -> Self {
        let caches: Vec<KvHeadsLayout> =
            layout.kv.iter().filter_map(|kv| kv.heads().ok()).collect();
        let latent_width = |kv: &KvLayerLayout| match kv.shape {
            KvShape::Latent { width } => Some(width as usize),
            KvShape::Heads { .. } => None,
        };
        let latent_width = layout.kv.iter().filter_map(latent_width).max();
        let latent_tiles = latent_width.map(|_| LATENT_HEAD_TILES_MAX as usize);
        // An entry of the cache is longer than what is summed of it.
        let head_dim = caches.iter().map(|kv| kv.head_dim).chain(latent_width).max();
        let kv_heads = caches.iter().map(|kv| kv.kv_heads).chain(latent_tiles).max();
        let latent_bytes = latent_width.map_or(0, |_| latent_workspace_bytes(layout));
        let partials = 2 * DECODE_BLOCKS_MAX as usize * DECODE_GQA_GROUP_MAX as usize;
        let work_tables: usize = work_table_bytes(layout).iter().sum();
        Self {
            rope: take(4 * layout.tokens_max * 2 * ROPE_PAIRS_MAX),
            work_tables: take(layout.blocks_per_slot.len() * work_tables),
            partials: take(4 * partials * (head_dim.unwrap_or(0) + 2)),
            arrivals: take(4 * layout.slots_max * kv_heads.unwrap_or(0)),
            latent: take(latent_bytes),
            latent_bytes,
            first_pages: take(latent_width.map_or(0, |_| 4 * layout.slots_max)),
        }
    }

    /// The tables of all groups, whose block tables begin at `block_tables`.
    pub(in crate::backend::cuda) fn groups(
        &self,
        layout: &MemoryLayout,
        block_tables: u64,
    ) -> Vec<GroupTables> {
        let [page_bytes, tile_bytes] = work_table_bytes(layout);
        let (mut first, mut pages) = (0, self.work_tables);
        let group = |blocks: &usize| {
            let tiles = pages + page_bytes as u64;
            let blocks_per_slot = *blocks;
            let blocks = block_tables + 4 * first as u64;
            let tables = GroupTables { blocks, first, blocks_per_slot, pages, tiles };
            first += blocks_per_slot * layout.slots_max;
            pages = tiles + tile_bytes as u64;
            tables
        };
        layout.blocks_per_slot.iter().map(group).collect()
    }
}

/// Bytes of one block in all layers.
pub(in crate::backend::cuda) fn kv_block_bytes(layout: &MemoryLayout) -> u64 {
    let of_layer = |kv: &KvLayerLayout| layer_bytes(&KvLayerLayout { blocks: 1, ..*kv }) as u64;
    layout.kv.iter().map(of_layer).sum()
}

/// Bytes of the caches of all layers.
pub(in crate::backend::cuda) fn cache_bytes(layout: &MemoryLayout) -> usize {
    layout.kv.iter().map(layer_bytes).sum()
}

/// Bytes of a layer's cache.
fn layer_bytes(kv: &KvLayerLayout) -> usize {
    match kv.shape {
        KvShape::Heads { kv_heads, head_dim } => 2 * part_bytes(kv, kv_heads * head_dim),
        KvShape::Latent { width } => part_bytes(kv, width),
    }
}

/// Bytes of a part of a layer's cache that keeps so many elements of a position: K, V, or entries.
fn part_bytes(kv: &KvLayerLayout, elements: u32) -> usize {
    let bytes = kv.blocks * kv.block_tokens * elements as usize * Half::BYTES;
    bytes.next_multiple_of(ALIGNMENT)
}

/// Lays out the caches of `layout` in places that `take` gives for so many bytes.
pub(in crate::backend::cuda) fn lay_out_caches(
    layout: &MemoryLayout,
    take: &mut dyn FnMut(usize) -> u64,
) -> Result<Vec<CudaLayerCache>, BackendError> {
    let mut layer = |kv: &KvLayerLayout| {
        if kv.block_tokens == 0 {
            return Err(failed("allocate", format!("{kv:?}: blocks of no tokens")));
        }
        Ok(match kv.shape {
            KvShape::Heads { kv_heads, head_dim } => {
                let (bytes, shape) = (part_bytes(kv, kv_heads * head_dim), kv.heads()?);
                CudaLayerCache::Heads(CudaHeadsCache {
                    keys: take(bytes),
                    values: take(bytes),
                    shape,
                })
            }
            KvShape::Latent { width } => CudaLayerCache::Latent(CudaLatentCache {
                entries: take(part_bytes(kv, width)),
                width: width as usize,
                blocks: kv.blocks,
                block_tokens: kv.block_tokens,
            }),
        })
    };
    layout.kv.iter().map(&mut layer).collect()
}

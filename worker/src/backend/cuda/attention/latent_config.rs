//! Which kernels do latent attention: chosen from shapes, card and the step's rows alone.
//!
//! Published shapes have tiled kernels. Decode rows meet the cached latents where these are, with
//! absorbed weights. Chunks on Hopper do not, where that is faster: keys and values of heads are
//! expanded for them, and a pair of positions then takes 320 multiplications a head and not 1,088.

use binfer_kernels::Target;
use binfer_kernels::chip::Chip;
use binfer_kernels::latent_attention::{
    EXPANDED_HEAD_DIM, LATENT_TILE_DIMS, LATENT_TILE_HEADS, latent_pages_bytes, latent_tile_bytes,
};
use binfer_kernels::list::DECODE_ROWS_MAX;

use super::config::{ALIGNMENT, DECODE_BLOCKS_MAX, PAGE_TOKENS, RowCounts, TILE_ROWS};
use crate::backend::cuda::formats::half::Half;
use crate::backend::cuda::launch::to_u32;
use crate::batch::BatchRow;

/// Most tiles of heads of latent attention whose decode rows blocks share.
pub(super) const LATENT_HEAD_TILES_MAX: u32 = 8;
/// Tokens of a tile of `latent_prefill` where that matters here.
const ABSORBED_TILE_TOKENS: u32 = 4;
/// Times of one head on a full H200 [ps]: `target/latent-attention-bench`.
const ABSORBED_TOKEN_PS: u64 = 3200;
const ABSORBED_PAIR_PS: u64 = 8;
const EXPANDED_POSITION_PS: u64 = 950;
const EXPANDED_PAIR_PS: u64 = 1;
/// Bytes of a position's expanded key and value, without the rotated part, of one head.
pub(super) const EXPANDED_HEAD_BYTES: usize = 2 * EXPANDED_HEAD_DIM as usize * Half::BYTES;

/// What the choice depends on of a layer of latent attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) struct LatentDesc {
    pub(in crate::backend::cuda) heads: u32,
    /// Elements of a query head that do not rotate, and of a value.
    pub(in crate::backend::cuda) nope: u32,
    pub(in crate::backend::cuda) value_dim: u32,
    pub(in crate::backend::cuda) latent_dim: u32,
    pub(in crate::backend::cuda) rope_dim: u32,
    /// Tokens of a block of the cache.
    pub(in crate::backend::cuda) block_tokens: u32,
    /// A power of two that divides the addresses of queries and output [bytes].
    pub(in crate::backend::cuda) alignment: u32,
    /// What lies between the kernels has so much room.
    pub(in crate::backend::cuda) workspace_bytes: usize,
}

/// What the choice depends on of the step's rows of more than one token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::backend::cuda) struct ChunkCounts {
    pub(in crate::backend::cuda) tokens: u32,
    /// Tiles of queries of one head.
    pub(in crate::backend::cuda) tiles: u32,
    /// Pages that their sequences have, up to the chunks' ends.
    pub(in crate::backend::cuda) pages: u32,
    /// Pairs of a query and a key that it sees.
    pub(in crate::backend::cuda) pairs: u64,
    /// The same where each tile is full.
    pub(in crate::backend::cuda) tiled_pairs: u64,
}

impl ChunkCounts {
    /// Counts `chunks`.
    pub(in crate::backend::cuda) fn of(chunks: &[BatchRow]) -> Self {
        let mut counts = Self::default();
        for BatchRow { count, start, .. } in chunks {
            let tiles = to_u32(*count).div_ceil(TILE_ROWS);
            let mean_seen = *start as u64 + (*count as u64).div_ceil(2);
            counts.tokens += to_u32(*count);
            counts.tiles += tiles;
            counts.pages += to_u32(start + count).div_ceil(PAGE_TOKENS);
            counts.pairs += *count as u64 * mean_seen;
            counts.tiled_pairs += u64::from(tiles * TILE_ROWS) * mean_seen;
        }
        counts
    }
}

/// The kernels of a layer's latent attention in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) enum LatentConfig {
    /// `latent_decode`, `latent_prefill` and what expands.
    Tiled(LatentTiledConfig),
    /// `latent_attention_reference`: any shape, slowly.
    Reference,
}

/// How the tiled kernels are launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) struct LatentTiledConfig {
    /// The launch for decode rows, if the step has some; without it they go the chunks' way.
    pub(in crate::backend::cuda) decode: Option<LatentDecodeConfig>,
    /// The launch for all other tokens, unless these are expanded.
    pub(in crate::backend::cuda) prefill: LatentPrefillConfig,
    /// How chunks are attended where keys and values are expanded for them.
    pub(in crate::backend::cuda) expanded: Option<ExpandedConfig>,
}

/// How `latent_decode` is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) struct LatentDecodeConfig {
    pub(in crate::backend::cuda) rows: u32,
    pub(in crate::backend::cuda) blocks: u32,
    /// Pages that shared memory holds.
    pub(in crate::backend::cuda) stages: u32,
    pub(in crate::backend::cuda) shared_bytes: u32,
}

/// How `latent_prefill` is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) struct LatentPrefillConfig {
    pub(in crate::backend::cuda) tile_tokens: u32,
    /// Pages that shared memory holds.
    pub(in crate::backend::cuda) stages: u32,
    pub(in crate::backend::cuda) shared_bytes: u32,
}

/// How `latent_expand` and `prefill_attention_expanded` are launched, again and again over heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) struct ExpandedConfig {
    /// Heads of a launch: as many as the workspace has room for.
    pub(in crate::backend::cuda) heads: u32,
    pub(in crate::backend::cuda) tiles: u32,
    pub(in crate::backend::cuda) pages: u32,
    /// Blocks of attention.
    pub(in crate::backend::cuda) blocks: u32,
}

/// Chooses the kernels of a layer's latent attention.
pub(in crate::backend::cuda) fn latent_config(
    desc: &LatentDesc,
    chip: &Chip,
    rows: RowCounts,
    chunks: ChunkCounts,
) -> LatentConfig {
    let fits = |bytes: u32| bytes <= chip.image_shared_bytes_max();
    let prefill = [(4, 2), (4, 1), (1, 2), (1, 1)].map(|(tile_tokens, stages)| {
        let shared_bytes = latent_tile_bytes(tile_tokens, stages);
        LatentPrefillConfig { tile_tokens, stages, shared_bytes }
    });
    let prefill = prefill.into_iter().find(|config| fits(config.shared_bytes));
    let takes =
        desc.block_tokens == PAGE_TOKENS && [desc.latent_dim, desc.rope_dim] == LATENT_TILE_DIMS;
    match prefill {
        Some(prefill) if takes => LatentConfig::Tiled(LatentTiledConfig {
            decode: latent_decode_config(desc, chip, rows),
            prefill,
            expanded: expanded_config(desc, chip, rows, chunks),
        }),
        _ => LatentConfig::Reference,
    }
}

fn latent_decode_config(
    desc: &LatentDesc,
    chip: &Chip,
    rows: RowCounts,
) -> Option<LatentDecodeConfig> {
    let takes = (1..=DECODE_ROWS_MAX).contains(&rows.all)
        && rows.decode > 0
        && desc.heads.div_ceil(LATENT_TILE_HEADS) <= LATENT_HEAD_TILES_MAX;
    let configs = [2, 1].map(|stages| LatentDecodeConfig {
        rows: rows.decode,
        blocks: chip.multiprocessors.min(DECODE_BLOCKS_MAX),
        stages,
        shared_bytes: latent_tile_bytes(1, stages) + latent_pages_bytes(rows.decode),
    });
    let mut fit = configs.into_iter();
    fit.find(|config| takes && config.shared_bytes <= chip.image_shared_bytes_max())
}

/// For a layer that has tiled kernels.
fn expanded_config(
    desc: &LatentDesc,
    chip: &Chip,
    rows: RowCounts,
    chunks: ChunkCounts,
) -> Option<ExpandedConfig> {
    let positions = u64::from(chunks.pages) * u64::from(PAGE_TOKENS);
    let takes = chip.target == Target::Sm90a
        && rows.all <= DECODE_ROWS_MAX
        && [desc.nope, desc.value_dim] == [EXPANDED_HEAD_DIM; 2]
        && desc.alignment >= ALIGNMENT
        && chunks.pages > 0
        && expanded_ps(desc, chip, chunks) < absorbed_ps(desc, chip, chunks);
    if !takes {
        return None;
    }
    let head_bytes = positions * EXPANDED_HEAD_BYTES as u64;
    let heads_max = u32::try_from(desc.workspace_bytes as u64 / head_bytes).unwrap_or(u32::MAX);
    if heads_max == 0 {
        return None;
    }
    let launches = desc.heads.div_ceil(heads_max);
    Some(ExpandedConfig {
        heads: desc.heads.div_ceil(launches),
        tiles: chunks.tiles,
        pages: chunks.pages,
        blocks: chip.multiprocessors,
    })
}

/// The time of chunks with absorbed weights, of one head.
fn absorbed_ps(desc: &LatentDesc, chip: &Chip, chunks: ChunkCounts) -> u64 {
    let blocks =
        chunks.tokens.div_ceil(ABSORBED_TILE_TOKENS) * desc.heads.div_ceil(LATENT_TILE_HEADS);
    u64::from(chunks.tokens) * ABSORBED_TOKEN_PS
        + spread(chunks.pairs * ABSORBED_PAIR_PS, blocks, chip)
}

/// The time of chunks whose keys and values are expanded, of one head.
fn expanded_ps(desc: &LatentDesc, chip: &Chip, chunks: ChunkCounts) -> u64 {
    u64::from(chunks.pages * PAGE_TOKENS) * EXPANDED_POSITION_PS
        + spread(chunks.tiled_pairs * EXPANDED_PAIR_PS, chunks.tiles * desc.heads, chip)
}

/// What takes so long on all multiprocessors, where there may be fewer blocks than these.
fn spread(ps: u64, blocks: u32, chip: &Chip) -> u64 {
    ps * u64::from(blocks.max(chip.multiprocessors)) / u64::from(blocks.max(1))
}

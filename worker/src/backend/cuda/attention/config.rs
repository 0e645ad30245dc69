//! Which kernels attend: chosen from shapes, card and the step's rows alone.
//!
//! Published shapes (heads of 64 or 128 that rotate whole, blocks of 64 tokens) have paged kernels:
//! for decode rows on every image, for chunks of prompts on Hopper. What one of them does not take
//! goes to the reference kernels, the whole step of it.

use binfer_kernels::Target;
use binfer_kernels::chip::Chip;
use binfer_kernels::list::{DECODE_GQA_GROUP_MAX, DECODE_ROWS_MAX, decode_attention_bytes};

/// Tokens of a block of the cache that the paged kernels take.
pub(super) const PAGE_TOKENS: u32 = 64;
/// Most blocks of decode attention: two a multiprocessor on the devices that we know.
pub(super) const DECODE_BLOCKS_MAX: u32 = 256;
/// Blocks of a cluster that has one pair of row and KV head to itself, where pairs are few.
const DECODE_CLUSTER: u32 = 8;
const DECODE_CLUSTERED_BLOCKS_MAX: u32 = 128;
/// Rows of a tile of queries: tokens times the query heads of a KV head.
pub(super) const TILE_ROWS: u32 = 128;
/// Bytes of which activations must be multiples for the paged kernels.
pub(super) const ALIGNMENT: u32 = 16;

/// What the choice depends on of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) struct AttentionDesc {
    pub(in crate::backend::cuda) heads: u32,
    pub(in crate::backend::cuda) kv_heads: u32,
    pub(in crate::backend::cuda) head_dim: u32,
    /// Elements of a head that rotate.
    pub(in crate::backend::cuda) rotary_dim: u32,
    /// Tokens of a block of the cache.
    pub(in crate::backend::cuda) block_tokens: u32,
    /// A power of two that divides the addresses of projections and output [bytes].
    pub(in crate::backend::cuda) alignment: u32,
}

/// What the choice depends on of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) struct RowCounts {
    /// Rows of one token, which come first.
    pub(in crate::backend::cuda) decode: u32,
    /// All rows.
    pub(in crate::backend::cuda) all: u32,
}

/// A width of heads that has paged kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) enum PagedHead {
    D64,
    D128,
}

/// The kernels of a layer's attention in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) enum AttentionConfig {
    /// `decode_attention` and `prefill_attention`, by tables that `attention_schedule` makes.
    Paged(PagedConfig),
    /// `attention_reference`: any shape, slowly.
    Reference,
}

/// How the paged kernels are launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) struct PagedConfig {
    pub(in crate::backend::cuda) head: PagedHead,
    /// The launch for decode rows, if the step has some.
    pub(in crate::backend::cuda) decode: Option<DecodeConfig>,
    /// Blocks of the launch for chunks, if the step has some.
    pub(in crate::backend::cuda) prefill_blocks: Option<u32>,
}

/// How decode attention is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) struct DecodeConfig {
    pub(in crate::backend::cuda) rows: u32,
    pub(in crate::backend::cuda) blocks: u32,
    pub(in crate::backend::cuda) cluster: u32,
    pub(in crate::backend::cuda) shared_bytes: u32,
}

/// Chooses the kernels of a layer's attention.
pub(in crate::backend::cuda) fn attention_config(
    desc: &AttentionDesc,
    chip: &Chip,
    rows: RowCounts,
) -> AttentionConfig {
    let Some(head) = paged_head(desc) else { return AttentionConfig::Reference };
    let has_chunks = rows.decode < rows.all;
    let gqa_group = desc.heads / desc.kv_heads;
    let shared_bytes = decode_attention_bytes(desc.head_dim, gqa_group, rows.decode);
    if rows.all > DECODE_ROWS_MAX
        || shared_bytes > chip.image_shared_bytes_max()
        || (has_chunks && chip.target != Target::Sm90a)
    {
        return AttentionConfig::Reference;
    }
    let (blocks, cluster) = decode_blocks(chip, rows.decode * desc.kv_heads);
    let decode = DecodeConfig { rows: rows.decode, blocks, cluster, shared_bytes };
    AttentionConfig::Paged(PagedConfig {
        head,
        decode: (rows.decode > 0).then_some(decode),
        prefill_blocks: has_chunks.then_some(chip.multiprocessors),
    })
}

fn paged_head(desc: &AttentionDesc) -> Option<PagedHead> {
    let takes = desc.block_tokens == PAGE_TOKENS
        && desc.rotary_dim == desc.head_dim
        && desc.heads / desc.kv_heads <= DECODE_GQA_GROUP_MAX
        && desc.alignment >= ALIGNMENT;
    match desc.head_dim {
        64 if takes => Some(PagedHead::D64),
        128 if takes => Some(PagedHead::D128),
        _ => None,
    }
}

/// Blocks of decode attention for so many pairs of row and KV head, and of a cluster.
fn decode_blocks(chip: &Chip, pairs: u32) -> (u32, u32) {
    let most = (2 * chip.multiprocessors / 32 * 32).clamp(32, DECODE_BLOCKS_MAX);
    let has_clusters = chip.target == Target::Sm90a;
    if has_clusters && pairs * DECODE_CLUSTER <= DECODE_CLUSTERED_BLOCKS_MAX {
        return (pairs * DECODE_CLUSTER, DECODE_CLUSTER);
    }
    (most, 1)
}

//! Attention for published shapes: decode rows and chunks on kernels of their own.
//!
//! Decode rows: one kernel from projections to output, on every image. Chunks: on Hopper. What one
//! of them does not take goes to the plain path, the whole step of it. Both divide their work by
//! tables that `attend_plan` makes once a step for each KV group.

use binfer_kernels::Target;
use binfer_kernels::fast_params::{
    AttendPlanParams, DecodeAttendParams, PrefillAttendParams, PrefillTile, TensorMap,
};
use binfer_kernels::list::{self, DECODE_GROUP_MAX, DECODE_ROWS_MAX, Kernel, decode_attend_bytes};
use binfer_kernels::params::AttendParams;

use super::CudaBackend;
use super::device::Blocks;
use super::ffi::tensor_map::{Dimension, describe};
use super::product::word;
use crate::backend::{BackendError, MemoryPlan};

/// Tokens of a block of the cache that these kernels take.
const PAGE_TOKENS: u32 = 64;
/// Rows of a tile of queries: tokens times the query heads of a KV head.
const TILE_ROWS: u32 = 128;
/// Elements of a row of a box: 128 bytes.
const BOX_ELEMENTS: u32 = 64;
/// Blocks of `decode_attend` at most: two a multiprocessor on the devices that we know.
const DECODE_BLOCKS_MAX: u32 = 256;

/// Blocks of a cluster that has one pair of row and KV head to itself, where pairs are few.
const DECODE_CLUSTER: u32 = 8;
const DECODE_CLUSTERED_BLOCKS_MAX: u32 = 128;

/// The kernels for a width of heads.
struct Kernels {
    decode: Kernel<DecodeAttendParams>,
    prepare: Kernel<AttendParams>,
    prefill: Kernel<PrefillAttendParams>,
}

/// The kernels that take heads of such a shape.
fn kernels(params: &AttendParams) -> Option<Kernels> {
    let group = params.heads / params.kv_heads;
    let takes = params.block_tokens == PAGE_TOKENS
        && 2 * params.pairs == params.head_dim
        && group <= DECODE_GROUP_MAX
        && [params.qkv, params.out].iter().all(|address| address.is_multiple_of(16));
    match params.head_dim {
        64 if takes => Some(Kernels {
            decode: list::DECODE_ATTEND_D64,
            prepare: list::PREFILL_PREPARE_D64,
            prefill: list::PREFILL_ATTEND_D64,
        }),
        128 if takes => Some(Kernels {
            decode: list::DECODE_ATTEND_D128,
            prepare: list::PREFILL_PREPARE_D128,
            prefill: list::PREFILL_ATTEND_D128,
        }),
        _ => None,
    }
}

/// Sizes of what these kernels need between them.
pub(super) struct FastAttendSizes {
    /// Of a KV group: pages before each row.
    pub(super) page_bytes: usize,
    /// Of a KV group: tiles of chunks.
    pub(super) tile_bytes: usize,
    /// Sums of pairs that blocks share.
    pub(super) partial_bytes: usize,
    /// A counter a pair of row and KV head.
    pub(super) arrival_bytes: usize,
}

impl FastAttendSizes {
    pub(super) fn of(plan: &MemoryPlan) -> Self {
        let tile_tokens_min = (TILE_ROWS / DECODE_GROUP_MAX) as usize;
        let tiles = plan.tokens_max / tile_tokens_min + plan.slots_max;
        let largest = |of: fn(&crate::backend::KvLayerPlan) -> usize| {
            plan.kv.iter().map(of).max().unwrap_or(0)
        };
        let (head_dim, kv_heads) = (largest(|kv| kv.head_dim), largest(|kv| kv.kv_heads));
        let pieces = 2 * DECODE_BLOCKS_MAX as usize * DECODE_GROUP_MAX as usize;
        Self {
            page_bytes: 4 * (plan.slots_max + 1),
            tile_bytes: size_of::<PrefillTile>() * tiles,
            partial_bytes: 4 * pieces * (head_dim + 2),
            arrival_bytes: 4 * plan.slots_max * kv_heads,
        }
    }
}

impl CudaBackend {
    /// Enqueues attention on the fast kernels; false where they do not take it.
    pub(super) fn mix_fast(
        &mut self,
        kv_group: usize,
        cache_blocks: usize,
        params: &AttendParams,
    ) -> Result<bool, BackendError> {
        let Some(kernels) = kernels(params) else { return Ok(false) };
        let shape = self.step.shape;
        let decode = self.step.batch.rows.iter().take_while(|row| row.count == 1).count();
        let decode = if shape.is_decode { shape.rows } else { word(decode) };
        let has_chunks = decode < shape.rows;
        let group = params.heads / params.kv_heads;
        let shared_bytes = decode_attend_bytes(params.head_dim, group, decode);
        if shape.rows > DECODE_ROWS_MAX
            || shared_bytes > self.device.shared_bytes_max
            || (has_chunks && self.device.target != Target::Sm90a)
        {
            return Ok(false);
        }
        let planned = self.plan_attention(kv_group, params)?;
        if has_chunks {
            self.device.launch(kernels.prepare, [params.tokens, 1, 1], params)?;
        }
        if decode > 0 {
            let tables = &self.memory.groups[kv_group];
            let decode_params = DecodeAttendParams {
                attend: *params,
                pages: tables.pages,
                partials: self.memory.at.partials,
                arrivals: self.memory.at.arrivals,
                rows: decode,
                reserved: 0,
            };
            let (grid, cluster) = self.decode_blocks(decode * params.kv_heads);
            let blocks = Blocks {
                grid: [grid, 1, 1],
                cluster,
                shared_bytes: Some(shared_bytes),
                // It reads the tables before it waits.
                after_all: planned,
            };
            self.device.launch_blocks(kernels.decode, blocks, &decode_params)?;
        }
        if has_chunks {
            let prefill = self.prefill_params(kv_group, cache_blocks, params)?;
            let grid = [self.device.info.multiprocessors, 1, 1];
            self.device.launch(kernels.prefill, grid, &prefill)?;
        }
        Ok(true)
    }

    /// Blocks of decode attention for so many pairs of row and KV head, and of a cluster.
    fn decode_blocks(&self, pairs: u32) -> (u32, u32) {
        let most = (2 * self.device.info.multiprocessors / 32 * 32).clamp(32, DECODE_BLOCKS_MAX);
        let has_clusters = self.device.target == Target::Sm90a;
        if has_clusters && pairs * DECODE_CLUSTER <= DECODE_CLUSTERED_BLOCKS_MAX {
            return (pairs * DECODE_CLUSTER, DECODE_CLUSTER);
        }
        (most, 1)
    }

    /// Makes the group's tables for this step, unless a layer before this one did. True if it did.
    fn plan_attention(
        &mut self,
        kv_group: usize,
        params: &AttendParams,
    ) -> Result<bool, BackendError> {
        let tile_tokens = TILE_ROWS / (params.heads / params.kv_heads);
        let wanted = (kv_group, params.window, tile_tokens);
        if self.step.attend_plans.contains(&wanted) {
            return Ok(false);
        }
        let tables = &self.memory.groups[kv_group];
        let plan = AttendPlanParams {
            step: params.step,
            pages: tables.pages,
            tiles: tables.tiles,
            rows: self.step.shape.rows,
            tiles_max: self.tiles(tile_tokens),
            tile_tokens,
            window: params.window,
        };
        self.device.launch(list::ATTEND_PLAN, [1, 1, 1], &plan)?;
        self.step.attend_plans.retain(|(group, ..)| *group != kv_group);
        self.step.attend_plans.push(wanted);
        Ok(true)
    }

    /// Tiles of the step's chunks.
    fn tiles(&self, tile_tokens: u32) -> u32 {
        if self.step.shape.is_decode {
            return 0;
        }
        let chunks = self.step.batch.rows.iter().skip_while(|row| row.count == 1);
        chunks.map(|row| word(row.count).div_ceil(tile_tokens)).sum()
    }

    fn prefill_params(
        &self,
        kv_group: usize,
        cache_blocks: usize,
        params: &AttendParams,
    ) -> Result<PrefillAttendParams, BackendError> {
        let group = params.heads / params.kv_heads;
        let tile_tokens = TILE_ROWS / group;
        let [heads, kv_heads, dim] =
            [params.heads, params.kv_heads, params.head_dim].map(|size| size as usize);
        let elements = Dimension { size: dim, stride: 1, in_box: BOX_ELEMENTS };
        let width = (heads + 2 * kv_heads) * dim;
        let tokens = params.tokens as usize;
        let queries = [
            elements,
            Dimension { size: heads, stride: dim, in_box: group },
            Dimension { size: tokens, stride: width, in_box: tile_tokens },
        ];
        let page = PAGE_TOKENS as usize * dim;
        let cache = [
            elements,
            Dimension { size: PAGE_TOKENS as usize, stride: dim, in_box: PAGE_TOKENS },
            Dimension { size: kv_heads, stride: page, in_box: 1 },
            Dimension { size: cache_blocks, stride: page * kv_heads, in_box: 1 },
        ];
        let map = |address, dimensions: &[Dimension]| -> Result<TensorMap, BackendError> {
            describe(self.settings.half, address, dimensions)
        };
        Ok(PrefillAttendParams {
            queries: map(params.qkv, &queries)?,
            keys: map(params.keys, &cache)?,
            values: map(params.values, &cache)?,
            attend: *params,
            tiles: self.memory.groups[kv_group].tiles,
            tile_count: self.tiles(tile_tokens),
            reserved: 0,
        })
    }
}

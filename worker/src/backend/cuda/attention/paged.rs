//! Launches of the paged kernels: decode rows from projections to output, chunks on Hopper.
//!
//! Both divide their work by tables that `attention_schedule` makes once a step for each KV group.

use binfer_kernels::attention_params::{
    AttentionParams, AttentionScheduleParams, DecodeAttentionParams, PrefillAttentionParams,
};
use binfer_kernels::gemm_params::TensorMap;
use binfer_kernels::list::{self, Kernel};

use super::cache::{AttentionPlaces, CudaHeadsCache, GroupTables};
use super::config::{DecodeConfig, PAGE_TOKENS, PagedConfig, PagedHead, TILE_ROWS};
use crate::backend::BackendError;
use crate::backend::cuda::device::LaunchBlocks;
use crate::backend::cuda::ffi::tensor_map::{Dimension, describe};
use crate::backend::cuda::launch::{Launcher, to_u32};
use crate::batch::BatchRow;

/// Elements of a row of a box: 128 bytes.
pub(super) const BOX_ELEMENTS: u32 = 64;

/// The kernels for a width of heads.
struct PagedKernels {
    decode: Kernel<DecodeAttentionParams>,
    prepare: Kernel<AttentionParams>,
    prefill: Kernel<PrefillAttentionParams>,
}

fn kernels(head: PagedHead) -> PagedKernels {
    match head {
        PagedHead::D64 => PagedKernels {
            decode: list::DECODE_ATTENTION_D64,
            prepare: list::PREFILL_PREPARE_D64,
            prefill: list::PREFILL_ATTENTION_D64,
        },
        PagedHead::D128 => PagedKernels {
            decode: list::DECODE_ATTENTION_D128,
            prepare: list::PREFILL_PREPARE_D128,
            prefill: list::PREFILL_ATTENTION_D128,
        },
    }
}

/// Work that a KV group's tables are made for: the group, the window, and tokens of a tile.
pub(super) type WorkTables = (usize, u32, u32);

/// Where a layer's attention works.
pub(super) struct PagedLayer<'a> {
    pub(super) places: &'a AttentionPlaces,
    pub(super) cache: &'a CudaHeadsCache,
    pub(super) tables: &'a GroupTables,
    /// Rows of the step that feed more than one token.
    pub(super) chunks: &'a [BatchRow],
}

/// Tokens of a tile of queries.
pub(super) fn tile_tokens(params: &AttentionParams) -> u32 {
    TILE_ROWS / (params.heads / params.kv_heads)
}

impl PagedLayer<'_> {
    /// Enqueues attention. `makes_tables`: the group's tables of work are not this step's yet.
    pub(super) fn launch(
        &self,
        on: &Launcher<'_>,
        config: &PagedConfig,
        params: &AttentionParams,
        makes_tables: bool,
    ) -> Result<(), BackendError> {
        let kernels = kernels(config.head);
        if makes_tables {
            self.make_tables(on, params)?;
        }
        if config.prefill_blocks.is_some() {
            on.device.launch(kernels.prepare, [params.tokens, 1, 1], params)?;
        }
        if let Some(decode) = &config.decode {
            // It reads the tables before it waits.
            self.decode(on, (kernels.decode, decode), params, makes_tables)?;
        }
        if let Some(blocks) = config.prefill_blocks {
            let prefill = self.prefill_params(on, params)?;
            on.device.launch(kernels.prefill, [blocks, 1, 1], &prefill)?;
        }
        Ok(())
    }

    fn make_tables(&self, on: &Launcher<'_>, params: &AttentionParams) -> Result<(), BackendError> {
        let tile_tokens = tile_tokens(params);
        let schedule = AttentionScheduleParams {
            step: params.step,
            pages: self.tables.pages,
            tiles: self.tables.tiles,
            rows: on.shape.rows,
            tiles_max: self.tiles(tile_tokens),
            tile_tokens,
            window: params.window,
        };
        on.device.launch(list::ATTENTION_SCHEDULE, [1, 1, 1], &schedule)
    }

    fn decode(
        &self,
        on: &Launcher<'_>,
        (kernel, config): (Kernel<DecodeAttentionParams>, &DecodeConfig),
        params: &AttentionParams,
        after_all: bool,
    ) -> Result<(), BackendError> {
        let decode = DecodeAttentionParams {
            attention: *params,
            pages: self.tables.pages,
            partials: self.places.partials,
            arrivals: self.places.arrivals,
            rows: config.rows,
            reserved: 0,
        };
        let blocks = LaunchBlocks {
            grid: [config.blocks, 1, 1],
            cluster: config.cluster,
            shared_bytes: Some(config.shared_bytes),
            after_all,
        };
        on.device.launch_blocks(kernel, blocks, &decode)
    }

    /// Tiles of the step's chunks.
    fn tiles(&self, tile_tokens: u32) -> u32 {
        self.chunks.iter().map(|row| to_u32(row.count).div_ceil(tile_tokens)).sum()
    }

    fn prefill_params(
        &self,
        on: &Launcher<'_>,
        params: &AttentionParams,
    ) -> Result<PrefillAttentionParams, BackendError> {
        let gqa_group = params.heads / params.kv_heads;
        let tile_tokens = tile_tokens(params);
        let [heads, kv_heads, dim] =
            [params.heads, params.kv_heads, params.head_dim].map(|size| size as usize);
        let elements = Dimension { size: dim, stride: 1, in_box: BOX_ELEMENTS };
        let width = (heads + 2 * kv_heads) * dim;
        let tokens = params.tokens as usize;
        let queries = [
            elements,
            Dimension { size: heads, stride: dim, in_box: gqa_group },
            Dimension { size: tokens, stride: width, in_box: tile_tokens },
        ];
        let page = PAGE_TOKENS as usize * dim;
        let blocks = self.cache.shape.blocks;
        let cache = [
            elements,
            Dimension { size: PAGE_TOKENS as usize, stride: dim, in_box: PAGE_TOKENS },
            Dimension { size: kv_heads, stride: page, in_box: 1 },
            Dimension { size: blocks, stride: page * kv_heads, in_box: 1 },
        ];
        let map = |address, dimensions: &[Dimension]| -> Result<TensorMap, BackendError> {
            describe(on.device.half, address, dimensions)
        };
        Ok(PrefillAttentionParams {
            queries: map(params.qkv, &queries)?,
            keys: map(params.keys, &cache)?,
            values: map(params.values, &cache)?,
            attention: *params,
            tiles: self.tables.tiles,
            tile_count: self.tiles(tile_tokens),
            first_head: 0,
            head_count: params.kv_heads,
            reserved: 0,
        })
    }
}

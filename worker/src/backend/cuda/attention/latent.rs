//! Latent attention (MLA). Queries of decode rows, and of all tokens where there is no better way,
//! meet the cached latent vectors where these are: `k_b` takes queries there, `v_b` takes the sums
//! back. For chunks keys and values are expanded (`latent_expanded.rs`).
//!
//! Absorbed queries and sums lie in a workspace. A step of more tokens than it holds is done in
//! parts, by rising tokens: a token sees none of a later part.

use binfer_kernels::attention_params::{HeadGemmParams, LatentAttentionParams};
use binfer_kernels::latent_attention::REFERENCE_LATENT_DIM_MAX;
use binfer_kernels::list::{self, HEAD_GEMM_TILE};
use binfer_kernels::params::ROPE_PAIRS_MAX;

use super::cache::{AttentionPlaces, CudaLatentCache, CudaLayerCache, GroupTables};
use super::config::TILE_ROWS;
use super::latent_config::{
    ChunkCounts, LatentConfig, LatentDesc, LatentTiledConfig, latent_config,
};
use super::latent_expanded::ExpandedLayer;
use super::latent_tiles::LatentTiles;
use super::{Attention, row_counts};
use crate::backend::args::AttendLatentArgs;
use crate::backend::cuda::formats::half::Half;
use crate::backend::cuda::launch::{Launcher, to_u32};
use crate::backend::cuda::weights::{DeviceMatrix, DeviceVector};
use crate::backend::{BackendError, StepMode};
use crate::batch::BatchRow;

/// Bytes of which sums, behind the queries, begin at a multiple.
const ALIGNMENT: usize = 256;

fn refuse(cause: String) -> BackendError {
    BackendError::Args { operation: "attend_latent", cause }
}

/// A layer's latent attention as it is asked for; its arguments were checked.
pub(in crate::backend::cuda) struct LatentCall<'a> {
    pub(in crate::backend::cuda) args: &'a AttendLatentArgs,
    pub(in crate::backend::cuda) latent_norm: DeviceVector,
    pub(in crate::backend::cuda) k_b: DeviceMatrix,
    pub(in crate::backend::cuda) v_b: DeviceMatrix,
    /// Addresses of `args.queries`, `args.latent` and `args.out`.
    pub(in crate::backend::cuda) queries: u64,
    pub(in crate::backend::cuda) latent: u64,
    pub(in crate::backend::cuda) out: u64,
    /// The step's rows, those of one token first.
    pub(in crate::backend::cuda) rows: &'a [BatchRow],
}

/// Elements of one token, all heads together.
struct TokenElements {
    query: usize,
    absorbed: usize,
    sums: usize,
    out: usize,
}

impl TokenElements {
    fn of(args: &AttendLatentArgs) -> Self {
        let rope_dim = args.rope.dims as usize;
        Self {
            query: args.heads * (args.nope + rope_dim),
            absorbed: args.heads * (args.latent_dim + rope_dim),
            sums: args.heads * args.latent_dim,
            out: args.heads * args.value_dim,
        }
    }

    /// Tokens that a workspace holds.
    fn tokens_max(&self, workspace_bytes: usize) -> usize {
        let bytes = workspace_bytes.saturating_sub(ALIGNMENT);
        bytes / ((self.absorbed + self.sums) * Half::BYTES)
    }
}

/// The address of a token's first element.
fn at_token(address: u64, token: usize, elements: usize) -> u64 {
    address + (token * elements * Half::BYTES) as u64
}

impl Attention {
    /// Enqueues a layer's latent attention.
    pub(in crate::backend::cuda) fn launch_latent(
        &mut self,
        on: &Launcher<'_>,
        call: &LatentCall<'_>,
    ) -> Result<LatentConfig, BackendError> {
        let args = call.args;
        let (latent_dim, pairs) = (args.latent_dim, args.rope.dims as usize / 2);
        if latent_dim > REFERENCE_LATENT_DIM_MAX || pairs > ROPE_PAIRS_MAX {
            let most = (REFERENCE_LATENT_DIM_MAX, 2 * ROPE_PAIRS_MAX);
            let dims = (latent_dim, args.rope.dims);
            return Err(refuse(format!("latent and rotated elements {dims:?}, {most:?} at most")));
        }
        self.make_rope(on, args.rope)?;
        let cache = self.latent_cache(args)?;
        let tables = self.groups.get(args.kv_group).copied();
        let tables = tables.ok_or_else(|| refuse(format!("no KV group {}", args.kv_group)))?;
        let params = self.latent_params(on, call, &cache, &tables);
        let rows = row_counts(on, call.rows);
        let chunks = match on.shape.mode {
            StepMode::Graph => ChunkCounts::default(),
            StepMode::Eager => ChunkCounts::of(&call.rows[rows.decode as usize..]),
        };
        let desc = desc(&params, args.value_dim, call.out, self.places.latent_bytes);
        let config = latent_config(&desc, &on.device.chip(), rows, chunks);
        let tiles = match config {
            LatentConfig::Tiled(config) => Some(self.latent_tiles(on, args, &tables, config)?),
            LatentConfig::Reference => None,
        };
        let expanded = tiles.as_ref().and_then(|tiles| tiles.config.expanded);
        let absorbed_tokens = expanded.map_or(on.shape.tokens, |_| rows.decode);
        self.launch_absorbed(on, call, &params, (absorbed_tokens as usize, tiles.as_ref()))?;
        if let Some(config) = expanded {
            let layer = ExpandedLayer {
                config,
                weights: [call.k_b, call.v_b],
                out: call.out,
                places: &self.places,
                cache: &cache,
                tables: &tables,
            };
            layer.launch(on, &params, absorbed_tokens)?;
        }
        Ok(config)
    }

    /// Enqueues attention of the first `tokens` with absorbed weights, in parts that the workspace
    /// holds.
    fn launch_absorbed(
        &self,
        on: &Launcher<'_>,
        call: &LatentCall<'_>,
        params: &LatentAttentionParams,
        (tokens, tiles): (usize, Option<&LatentTiles>),
    ) -> Result<(), BackendError> {
        let elements = TokenElements::of(call.args);
        let tokens_max = elements.tokens_max(self.places.latent_bytes);
        if tokens_max == 0 {
            let heads = call.args.heads;
            return Err(refuse(format!("{heads} heads are too many for the workspace")));
        }
        for first in (0..tokens).step_by(tokens_max) {
            let count = tokens_max.min(tokens - first);
            let end = at_token(params.absorbed, count, elements.absorbed);
            let part = LatentAttentionParams {
                sums: end.next_multiple_of(ALIGNMENT as u64),
                first_token: to_u32(first),
                tokens: to_u32(count),
                ..*params
            };
            launch_part(on, call, &part, tiles)?;
        }
        Ok(())
    }

    /// The tiled kernels with the tables that they need, which are made unless a layer before this
    /// one did.
    fn latent_tiles(
        &mut self,
        on: &Launcher<'_>,
        args: &AttendLatentArgs,
        tables: &GroupTables,
        config: LatentTiledConfig,
    ) -> Result<LatentTiles, BackendError> {
        let AttentionPlaces { partials, arrivals, .. } = self.places;
        let tiles = LatentTiles { config, tables: *tables, partials, arrivals };
        let reads_tables = config.decode.is_some() || config.expanded.is_some();
        if reads_tables && self.needs_tables((args.kv_group, 0, TILE_ROWS)) {
            tiles.make_tables(on)?;
        }
        Ok(tiles)
    }

    fn latent_params(
        &self,
        on: &Launcher<'_>,
        call: &LatentCall<'_>,
        cache: &CudaLatentCache,
        tables: &GroupTables,
    ) -> LatentAttentionParams {
        let args = call.args;
        LatentAttentionParams {
            step: on.places.tables,
            queries: call.queries,
            latents: call.latent,
            latent_norm: call.latent_norm.address,
            rope: self.places.rope,
            entries: cache.entries,
            table: tables.blocks,
            absorbed: self.places.latent,
            sums: 0,
            table_stride: to_u32(tables.blocks_per_slot),
            block_tokens: to_u32(cache.block_tokens),
            heads: to_u32(args.heads),
            nope: to_u32(args.nope),
            latent_dim: to_u32(args.latent_dim),
            pairs: args.rope.dims / 2,
            eps: args.norm_eps,
            scale: args.scale,
            first_token: 0,
            tokens: 0,
        }
    }

    /// The layer's cache, if it has the shape of the arguments.
    fn latent_cache(&self, args: &AttendLatentArgs) -> Result<CudaLatentCache, BackendError> {
        let width = args.latent_dim + args.rope.dims as usize;
        match self.layers.get(args.layer) {
            Some(CudaLayerCache::Latent(cache)) if cache.width == width => Ok(*cache),
            other => Err(refuse(format!("layer {} was planned with {other:?}", args.layer))),
        }
    }
}

/// What the choice of kernels depends on.
fn desc(
    params: &LatentAttentionParams,
    value_dim: usize,
    out: u64,
    workspace_bytes: usize,
) -> LatentDesc {
    let alignment = (params.queries | out).trailing_zeros().min(8);
    LatentDesc {
        heads: params.heads,
        nope: params.nope,
        value_dim: to_u32(value_dim),
        latent_dim: params.latent_dim,
        rope_dim: 2 * params.pairs,
        block_tokens: params.block_tokens,
        alignment: 1 << alignment,
        workspace_bytes,
    }
}

/// Enqueues the kernels for the tokens of `part`.
fn launch_part(
    on: &Launcher<'_>,
    call: &LatentCall<'_>,
    part: &LatentAttentionParams,
    tiles: Option<&LatentTiles>,
) -> Result<(), BackendError> {
    let (args, elements) = (call.args, TokenElements::of(call.args));
    let first = part.first_token as usize;
    let heads = to_u32(args.heads);
    on.device.launch(list::LATENT_PREPARE, [part.tokens, 1, 1], part)?;
    let of_head = |elements: usize| to_u32(elements / args.heads.max(1));
    let gemm = HeadGemmParams { tokens: part.tokens, ..HeadGemmParams::default() };
    let into_latents = HeadGemmParams {
        x: at_token(call.queries, first, elements.query),
        weight: call.k_b.address,
        out: part.absorbed,
        in_features: part.nope,
        out_features: part.latent_dim,
        x_stride: to_u32(elements.query),
        x_head_stride: of_head(elements.query),
        weight_stride: to_u32(call.k_b.stride),
        out_stride: to_u32(elements.absorbed),
        out_head_stride: of_head(elements.absorbed),
        ..gemm
    };
    launch_head_gemm(on, heads, &into_latents)?;
    match tiles {
        Some(tiles) => tiles.launch(on, part)?,
        None => {
            on.device.launch(list::LATENT_ATTENTION_REFERENCE, [part.tokens, heads, 1], part)?;
        }
    }
    let out_of_latents = HeadGemmParams {
        x: part.sums,
        weight: call.v_b.address,
        out: at_token(call.out, first, elements.out),
        in_features: part.latent_dim,
        out_features: of_head(elements.out),
        x_stride: to_u32(elements.sums),
        x_head_stride: of_head(elements.sums),
        weight_stride: to_u32(call.v_b.stride),
        out_stride: to_u32(elements.out),
        out_head_stride: of_head(elements.out),
        ..gemm
    };
    launch_head_gemm(on, heads, &out_of_latents)
}

fn launch_head_gemm(
    on: &Launcher<'_>,
    heads: u32,
    params: &HeadGemmParams,
) -> Result<(), BackendError> {
    let [tokens, features] = HEAD_GEMM_TILE;
    let grid = [params.out_features.div_ceil(features), params.tokens.div_ceil(tokens), heads];
    on.device.launch(list::HEAD_GEMM, grid, params)
}

//! Attention: cosines and sines once a step, then norms, rotation and cache, then the sum over it.
//!
//! | file | is |
//! |---|---|
//! | `config.rs` | which kernels attend, pure |
//! | `cache.rs` | where caches, tables and workspaces lie |
//! | `paged.rs` | published shapes |
//! | `reference.rs` | any shape |
//! | `latent_config.rs` | which kernels do latent attention, pure |
//! | `latent.rs` | latent attention, any shape |
//! | `latent_tiles.rs` | latent attention of published shapes, weights absorbed |
//! | `latent_expanded.rs` | the same for chunks, keys and values expanded |

pub(super) mod cache;
pub(super) mod config;
pub(super) mod latent;
pub(super) mod latent_config;
mod latent_expanded;
mod latent_tiles;
mod paged;
mod reference;

use binfer_kernels::attention_params::AttentionParams;
use binfer_kernels::list::{self, REFERENCE_HEAD_DIM_MAX};
use binfer_kernels::params::{ROPE_PAIRS_MAX, RopeParams};
use binfer_shard::spec::Rope;

use cache::{AttentionPlaces, CudaHeadsCache, CudaLayerCache, GroupTables};
use config::{AttentionConfig, AttentionDesc, RowCounts, attention_config};
use paged::{PagedLayer, WorkTables, tile_tokens};

use super::launch::{Launcher, to_u32};
use super::weights::DeviceVector;
use crate::backend::args::AttendArgs;
use crate::backend::rope::{attention_factor, frequencies};
use crate::backend::{BackendError, StepMode};
use crate::batch::BatchRow;

fn refuse(cause: String) -> BackendError {
    BackendError::Args { operation: "attend", cause }
}

/// A layer's attention as it is asked for; its arguments were checked.
pub(super) struct AttentionCall<'a> {
    pub(super) args: &'a AttendArgs,
    /// Norms of query and key heads, sinks.
    pub(super) vectors: [Option<DeviceVector>; 3],
    /// Addresses of `args.qkv` and `args.out`.
    pub(super) qkv: u64,
    pub(super) out: u64,
    /// The step's rows, those of one token first.
    pub(super) rows: &'a [BatchRow],
}

/// What attention needs between steps and within one.
#[derive(Default)]
pub(super) struct Attention {
    places: AttentionPlaces,
    layers: Vec<CudaLayerCache>,
    groups: Vec<GroupTables>,
    /// The rope whose cosines and sines the device's table holds in this step.
    rope: Option<Rope>,
    /// The work that the groups' tables hold in this step.
    work_tables: Vec<WorkTables>,
}

impl Attention {
    /// Attention in memory that was taken.
    pub(super) fn new(
        places: AttentionPlaces,
        layers: Vec<CudaLayerCache>,
        groups: Vec<GroupTables>,
    ) -> Self {
        Self { places, layers, groups, ..Self::default() }
    }

    /// A step begins: its tables are still to be made.
    pub(super) fn begin_step(&mut self) {
        self.rope = None;
        self.work_tables.clear();
    }

    /// Enqueues a layer's attention.
    pub(super) fn launch(
        &mut self,
        on: &Launcher<'_>,
        call: &AttentionCall<'_>,
    ) -> Result<AttentionConfig, BackendError> {
        let args = call.args;
        if args.head_dim > REFERENCE_HEAD_DIM_MAX {
            return Err(refuse(format!("heads of {} elements, 256 at most", args.head_dim)));
        }
        self.make_rope(on, args.rope)?;
        let cache = self.heads_cache(args)?;
        let params = self.params(on, call, &cache)?;
        let rows = row_counts(on, call.rows);
        let chunks = match on.shape.mode {
            StepMode::Graph => &[][..],
            StepMode::Eager => &call.rows[rows.decode as usize..],
        };
        let config = attention_config(&desc(&params), &on.device.chip(), rows);
        match &config {
            AttentionConfig::Paged(paged) => {
                let wanted = (args.kv_group, params.window, tile_tokens(&params));
                let makes_tables = self.needs_tables(wanted);
                let layer = PagedLayer {
                    places: &self.places,
                    cache: &cache,
                    tables: &self.groups[args.kv_group],
                    chunks,
                };
                layer.launch(on, paged, &params, makes_tables)?;
            }
            AttentionConfig::Reference => reference::launch(on, &params)?,
        }
        Ok(config)
    }

    /// Says whether a KV group's tables of work are still to be made. From here on they count as
    /// made.
    fn needs_tables(&mut self, wanted: WorkTables) -> bool {
        if self.work_tables.contains(&wanted) {
            return false;
        }
        self.work_tables.retain(|(kv_group, ..)| *kv_group != wanted.0);
        self.work_tables.push(wanted);
        true
    }

    /// The layer's cache, if it has the shape of the arguments.
    fn heads_cache(&self, args: &AttendArgs) -> Result<CudaHeadsCache, BackendError> {
        match self.layers.get(args.layer) {
            Some(CudaLayerCache::Heads(cache))
                if (cache.shape.kv_heads, cache.shape.head_dim)
                    == (args.kv_heads, args.head_dim) =>
            {
                Ok(*cache)
            }
            other => Err(refuse(format!("layer {} was planned with {other:?}", args.layer))),
        }
    }

    fn params(
        &self,
        on: &Launcher<'_>,
        call: &AttentionCall<'_>,
        layer: &CudaHeadsCache,
    ) -> Result<AttentionParams, BackendError> {
        let args = call.args;
        let tables = self.groups.get(args.kv_group);
        let tables = tables.ok_or_else(|| refuse(format!("no KV group {}", args.kv_group)))?;
        let [q_norm, k_norm, sinks] =
            call.vectors.map(|vector| vector.map_or(0, |vector| vector.address));
        Ok(AttentionParams {
            step: on.places.tables,
            qkv: call.qkv,
            out: call.out,
            q_norm,
            k_norm,
            sinks,
            rope: self.places.rope,
            keys: layer.keys,
            values: layer.values,
            table: tables.blocks,
            table_stride: to_u32(tables.blocks_per_slot),
            block_tokens: to_u32(layer.shape.block_tokens),
            heads: to_u32(args.heads),
            kv_heads: to_u32(args.kv_heads),
            head_dim: to_u32(args.head_dim),
            pairs: args.rope.dims / 2,
            window: args.window.unwrap_or(0),
            eps: args.norm_eps,
            scale: 1.0 / (args.head_dim as f32).sqrt(),
            tokens: on.shape.tokens,
        })
    }

    /// Makes the step's cosines and sines, unless a layer before this one did.
    fn make_rope(&mut self, on: &Launcher<'_>, rope: Rope) -> Result<(), BackendError> {
        if self.rope == Some(rope) {
            return Ok(());
        }
        let mut params = RopeParams {
            step: on.places.tables,
            table: self.places.rope,
            pairs: rope.dims / 2,
            factor: attention_factor(rope.scaling),
            frequencies: [0.0; ROPE_PAIRS_MAX],
        };
        for (to, frequency) in params.frequencies.iter_mut().zip(frequencies(rope)) {
            *to = frequency;
        }
        on.device.launch(list::ROPE_TABLE, [on.shape.tokens, 1, 1], &params)?;
        self.rope = Some(rope);
        Ok(())
    }
}

/// Rows of the step under way; a graph has room for so many decode rows.
fn row_counts(on: &Launcher<'_>, rows: &[BatchRow]) -> RowCounts {
    let decode = match on.shape.mode {
        StepMode::Graph => on.shape.rows,
        StepMode::Eager => to_u32(rows.iter().take_while(|row| row.count == 1).count()),
    };
    RowCounts { decode, all: on.shape.rows }
}

/// What the choice of kernels depends on.
fn desc(params: &AttentionParams) -> AttentionDesc {
    let alignment = (params.qkv | params.out).trailing_zeros().min(8);
    AttentionDesc {
        heads: params.heads,
        kv_heads: params.kv_heads,
        head_dim: params.head_dim,
        rotary_dim: 2 * params.pairs,
        block_tokens: params.block_tokens,
        alignment: 1 << alignment,
    }
}

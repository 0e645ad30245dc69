//! Launches of the tiled kernels of latent attention with absorbed weights: decode rows by the
//! pages that they see, as `paged.rs` does, other tokens in tiles as they lie in the step.

use binfer_kernels::attention_params::{
    AttentionScheduleParams, LatentAttentionParams, LatentDecodeParams, LatentPrefillParams,
};
use binfer_kernels::latent_attention::LATENT_TILE_HEADS;
use binfer_kernels::list;
use binfer_kernels::params::StepRow;

use super::cache::GroupTables;
use super::config::TILE_ROWS;
use super::latent_config::{LatentDecodeConfig, LatentTiledConfig};
use crate::backend::BackendError;
use crate::backend::cuda::device::LaunchBlocks;
use crate::backend::cuda::launch::Launcher;

/// A layer's tiled kernels and what lies between their blocks.
pub(super) struct LatentTiles {
    pub(super) config: LatentTiledConfig,
    /// Where pages of decode rows are counted, and tiles of expanded chunks listed.
    pub(super) tables: GroupTables,
    pub(super) partials: u64,
    pub(super) arrivals: u64,
}

impl LatentTiles {
    /// Enqueues what counts the pages of decode rows, which `latent_decode` reads before it waits,
    /// so that other kernels must come between, and what lists the tiles of expanded chunks.
    pub(super) fn make_tables(&self, on: &Launcher<'_>) -> Result<(), BackendError> {
        let schedule = AttentionScheduleParams {
            step: on.places.tables,
            pages: self.tables.pages,
            tiles: self.tables.tiles,
            rows: on.shape.rows,
            tiles_max: self.config.expanded.map_or(0, |expanded| expanded.tiles),
            tile_tokens: TILE_ROWS,
            window: 0,
        };
        on.device.launch(list::ATTENTION_SCHEDULE, [1, 1, 1], &schedule)
    }

    /// Enqueues attention of the tokens of `part`.
    pub(super) fn launch(
        &self,
        on: &Launcher<'_>,
        part: &LatentAttentionParams,
    ) -> Result<(), BackendError> {
        let (first, end) = (part.first_token, part.first_token + part.tokens);
        let mut attended = first;
        if let Some(decode) = &self.config.decode
            && decode.rows > first
        {
            attended = decode.rows.min(end);
            self.decode(on, part, (decode, attended - first))?;
        }
        self.prefill(on, part, attended)
    }

    /// Decode row r feeds token r.
    fn decode(
        &self,
        on: &Launcher<'_>,
        part: &LatentAttentionParams,
        (config, rows): (&LatentDecodeConfig, u32),
    ) -> Result<(), BackendError> {
        let first = u64::from(part.first_token);
        let mut latent = *part;
        latent.step.rows += first * size_of::<StepRow>() as u64;
        let decode = LatentDecodeParams {
            latent,
            pages: self.tables.pages + first * size_of::<u32>() as u64,
            partials: self.partials,
            arrivals: self.arrivals,
            rows,
            stages: config.stages,
        };
        let blocks = LaunchBlocks {
            grid: [config.blocks, 1, 1],
            shared_bytes: Some(config.shared_bytes),
            ..LaunchBlocks::default()
        };
        on.device.launch_blocks(list::LATENT_DECODE, blocks, &decode)
    }

    /// Attends the tokens of `part` from `first_token` on.
    fn prefill(
        &self,
        on: &Launcher<'_>,
        part: &LatentAttentionParams,
        first_token: u32,
    ) -> Result<(), BackendError> {
        let config = &self.config.prefill;
        let tokens = part.first_token + part.tokens - first_token;
        let tiles = tokens.div_ceil(config.tile_tokens);
        let blocks = LaunchBlocks {
            grid: [tiles, part.heads.div_ceil(LATENT_TILE_HEADS), 1],
            shared_bytes: Some(config.shared_bytes),
            ..LaunchBlocks::default()
        };
        let prefill = LatentPrefillParams { latent: *part, first_token, stages: config.stages };
        let kernel =
            if config.tile_tokens == 1 { list::LATENT_PREFILL_T1 } else { list::LATENT_PREFILL_T4 };
        on.device.launch_blocks(kernel, blocks, &prefill)
    }
}

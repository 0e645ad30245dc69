//! Launches of the tiled kernels of latent attention: decode rows by the pages that they see, as
//! `paged.rs` does, all other tokens in tiles as they lie in the step.

use binfer_kernels::attention_params::{
    AttentionScheduleParams, LatentAttentionParams, LatentDecodeParams, LatentPrefillParams,
};
use binfer_kernels::list::{self, LATENT_TILE_HEADS};
use binfer_kernels::params::StepRow;

use super::config::{LatentDecodeConfig, LatentTiledConfig};
use crate::backend::BackendError;
use crate::backend::cuda::device::LaunchBlocks;
use crate::backend::cuda::launch::Launcher;

/// Tokens of a tile in the schedule, none of whose tiles is used.
pub(super) const TILE_TOKENS: u32 = 1;

/// A layer's tiled kernels and what lies between their blocks.
pub(super) struct LatentTiles {
    pub(super) config: LatentTiledConfig,
    /// u32 `[rows + 1]`: pages before each decode row.
    pub(super) pages: u64,
    pub(super) partials: u64,
    pub(super) arrivals: u64,
}

impl LatentTiles {
    /// Enqueues what counts the pages of decode rows. `latent_decode` reads them before it waits,
    /// so other kernels must come between.
    pub(super) fn make_pages(&self, on: &Launcher<'_>) -> Result<(), BackendError> {
        let schedule = AttentionScheduleParams {
            step: on.places.tables,
            pages: self.pages,
            tiles: 0,
            rows: on.shape.rows,
            tiles_max: 0,
            tile_tokens: TILE_TOKENS,
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
            pages: self.pages + first * size_of::<u32>() as u64,
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

//! Sampling: what it needs to know of slots and logits, and its launches.
//!
//! | file | is |
//! |---|---|
//! | `token_counts.rs`, `staging.rs` | what penalties and biases need, on its way to the device |
//! | `token_masks.rs` | what a grammar allows, likewise |
//!
//! How tokens are sampled is in `cuda/sample.cu`.

mod staging;
mod token_counts;
pub(super) mod token_masks;

use binfer_kernels::list::{self, SAMPLE_TILE_LOGITS};
use binfer_kernels::params::StepResult;
use binfer_kernels::sample_params::{LOGPROBS_MAX, SampleParams, SampleTile};
use binfer_kernels::skinny_gemm::ROW_PARTIALS_MAX;

use token_counts::DeviceTokenCounts;
use token_masks::TokenMasks;

use super::ffi::launch::CudaStream;
use super::launch::{Launcher, to_u32};
use super::ranks::CudaRanks;
use crate::backend::{BackendError, MemoryLayout};
use crate::batch::SlotTokens;

// The kernels' tables have room for what a plan may ask.
const _: () = assert!(LOGPROBS_MAX == 1 + binfer_proto::TOP_LOGPROBS_MAX as usize);

/// Most rows whose tiles are made at once: with a large vocabulary that fills a device.
const TILE_ROWS_AT_ONCE: u32 = 32;

/// Where sampling keeps what lies between its kernels.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SamplingPlaces {
    /// `[outputs, tiles_per_row]`: statistics of logits.
    pub(super) tiles: u64,
    /// `StepResult [outputs]`.
    pub(super) sampled: u64,
    /// u32 `[outputs][words]`, see `token_masks.rs`.
    masks: u64,
}

/// Room for statistics of a row: of tiles of its logits, or of what each block of the head has of
/// it.
pub(super) fn tiles_per_row(vocab: usize) -> u32 {
    to_u32(vocab).div_ceil(SAMPLE_TILE_LOGITS).max(ROW_PARTIALS_MAX)
}

impl SamplingPlaces {
    /// Lays them out in places that `take` gives for so many bytes.
    pub(super) fn lay_out(layout: &MemoryLayout, take: &mut dyn FnMut(usize) -> u64) -> Self {
        let outputs = layout.outputs_max;
        let tiles = tiles_per_row(layout.vocab) as usize;
        Self {
            tiles: take(size_of::<SampleTile>() * outputs * tiles),
            sampled: take(size_of::<StepResult>() * outputs),
            masks: take(token_masks::kept_bytes(layout)),
        }
    }
}

/// What sampling needs between steps and within one.
pub(super) struct TokenSampling {
    pub(super) places: SamplingPlaces,
    pub(super) masks: TokenMasks,
    counts: DeviceTokenCounts,
    /// Most outputs of a step.
    outputs_max: u32,
    /// Blocks of the head that made statistics of this step's logits; 0 where there are only
    /// logits.
    pub(super) head_partials: u32,
}

/// The logits of a step, and where their logprobs go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Logits {
    /// f32 `[outputs, vocab]`.
    pub(super) address: u64,
    pub(super) vocab: usize,
    pub(super) logprobs: u64,
}

impl TokenSampling {
    /// Takes the memory that is its own; the rest lies at `places`.
    pub(super) fn new(layout: &MemoryLayout, places: SamplingPlaces) -> Result<Self, BackendError> {
        Ok(Self {
            places,
            masks: TokenMasks::new(layout)?,
            counts: DeviceTokenCounts::new(layout)?,
            outputs_max: to_u32(layout.outputs_max),
            head_partials: 0,
        })
    }

    /// Bytes that [`Self::new`] takes of the device.
    pub(super) fn bytes_of(layout: &MemoryLayout) -> usize {
        DeviceTokenCounts::bytes_of(layout)
    }

    /// Bytes taken of the device.
    pub(super) fn bytes(&self) -> usize {
        self.counts.bytes()
    }

    /// Host memory taken.
    pub(super) fn host_bytes(&self) -> usize {
        self.counts.host_bytes() + self.masks.bytes()
    }

    /// A step begins: it has no logits yet.
    pub(super) fn begin_step(&mut self) {
        self.head_partials = 0;
    }

    /// Slots of the step under way are opened. Only those of requests with penalties or biases come
    /// here, once each time that a request gets a slot.
    pub(super) fn open_slots(
        &mut self,
        opened: &[SlotTokens],
        way: (&CudaStream, &CudaRanks),
    ) -> Result<(), BackendError> {
        opened.iter().try_for_each(|tokens| self.counts.open(tokens, way))
    }

    /// Enqueues what samples the step's tokens.
    pub(super) fn launch(&self, on: &Launcher<'_>, logits: Logits) -> Result<(), BackendError> {
        let (counts, biases) = self.counts.addresses();
        let params = SampleParams {
            step: on.places.tables,
            logits: logits.address,
            tiles: self.places.tiles,
            sampled: self.places.sampled,
            last_tokens: on.places.last_tokens,
            token_counts: counts,
            biases,
            logprobs: logits.logprobs,
            masks: self.masks.params(self.places.masks),
            vocab: to_u32(logits.vocab),
            tiles_per_row: tiles_per_row(logits.vocab),
            outputs_max: self.outputs_max,
            head_partials: self.head_partials,
        };
        let rows = on.shape.outputs.min(TILE_ROWS_AT_ONCE);
        let tiles = [params.vocab.div_ceil(SAMPLE_TILE_LOGITS), rows, 1];
        on.device.launch(list::SAMPLE_TILES, tiles, &params)?;
        on.device.launch(list::SAMPLE_ROWS, [on.shape.outputs, 1, 1], &params)
    }
}

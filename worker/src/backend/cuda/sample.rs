//! Drawing tokens: what slots have seen goes to the device when they begin; then the launches.
//!
//! The device counts drawn tokens by itself, so a plan never needs to know one. Deliberately absent:
//! how tokens are drawn (`cuda/sample.cu`) and how logits are adjusted (`backend/adjust.rs`).

use binfer_kernels::list::{self, SAMPLE_TILE_LOGITS};
use binfer_kernels::sample_params::{BIASES_MAX, Bias as BiasTwin, LOGPROBS_MAX, SampleParams};
use binfer_kernels::stream::STREAM_PARTS_MAX;
use binfer_proto::Bias;

use super::CudaBackend;
use super::ffi::failed;
use super::ffi::launch::Stream;
use super::ffi::memory::DeviceBuffer;
use super::product::word;
use super::ranks::Ranks;
use super::staging::Staging;
use super::step::Step;
use crate::backend::args::SampleArgs;
use crate::backend::{BackendError, MemoryPlan, adjust};
use crate::batch::SlotTokens;

// The kernels' tables have room for what a plan may ask.
const _: () = assert!(BIASES_MAX == binfer_proto::BIASES_MAX);
const _: () = assert!(LOGPROBS_MAX == 1 + binfer_proto::TOP_LOGPROBS_MAX as usize);

/// Rows whose tiles are made at once at most: with a large vocabulary that fills a device.
const TILE_ROWS_AT_ONCE: u32 = 32;

/// Bytes of a slot's biases.
const BIAS_BYTES: usize = BIASES_MAX * size_of::<BiasTwin>();

/// What slots have seen. Nothing is read of a slot that did not begin with it.
#[derive(Debug)]
pub(super) struct Seen {
    /// `u16 [slots, vocabulary]`, see `backend/adjust.rs`.
    entries: DeviceBuffer,
    /// `[slots, BIASES_MAX]`.
    biases: DeviceBuffer,
    /// A slot's entries and biases on their way.
    staging: Staging,
    /// Of the slot that begins.
    beginning: Vec<u16>,
}

impl Seen {
    /// Takes its memory.
    pub(super) fn new(plan: &MemoryPlan) -> Result<Self, BackendError> {
        let (slots, vocab) = (plan.slots_max, plan.vocab);
        let bytes = size_of::<u16>() * vocab;
        Ok(Self {
            entries: DeviceBuffer::new(bytes * slots)?,
            biases: DeviceBuffer::new(BIAS_BYTES * slots)?,
            staging: Staging::new(if slots == 0 { 0 } else { bytes + BIAS_BYTES })?,
            beginning: vec![0; vocab],
        })
    }

    /// Bytes that [`Self::new`] takes.
    pub(super) fn bytes_of(plan: &MemoryPlan) -> usize {
        plan.slots_max * (size_of::<u16>() * plan.vocab + BIAS_BYTES)
    }

    /// Bytes taken.
    pub(super) fn bytes(&self) -> usize {
        self.entries.bytes() + self.biases.bytes()
    }

    /// Host memory taken.
    pub(super) fn host_bytes(&self) -> usize {
        self.staging.bytes()
    }

    /// A slot begins anew, after all that the stream was given before.
    fn begin(&mut self, tokens: &SlotTokens, way: (&Stream, &Ranks)) -> Result<(), BackendError> {
        let slot = tokens.slot.index();
        adjust::begin(tokens, &mut self.beginning);
        let entries: Vec<[u8; 2]> =
            self.beginning.iter().map(|entry| entry.to_le_bytes()).collect();
        let words = |bias: &Bias| [bias.token, bias.value.to_bits()].map(u32::to_le_bytes);
        let biases: Vec<u8> = tokens.biases.iter().flat_map(words).flatten().collect();
        let entries = entries.as_flattened();
        let parts = [
            (entries, &self.entries, slot * entries.len()),
            (biases.as_slice(), &self.biases, slot * BIAS_BYTES),
        ];
        self.staging.send(&parts, way)
    }
}

/// Room for statistics of a row: of tiles of its logits, or of what each block of the head has of it.
pub(super) fn tiles_per_row(vocab: usize) -> u32 {
    word(vocab).div_ceil(SAMPLE_TILE_LOGITS).max(STREAM_PARTS_MAX)
}

impl CudaBackend {
    /// Slots of the step under way begin. Only those of requests with penalties or biases come
    /// here, once each time that a request gets a slot.
    pub(super) fn begin_slots(&mut self) -> Result<(), BackendError> {
        let (seen, way) = (&mut self.memory.seen, (&self.device.stream, &self.ranks));
        self.step.batch.begun.iter().try_for_each(|tokens| seen.begin(tokens, way))
    }

    /// Launches what draws the step's tokens.
    pub(super) fn draw(&self, args: &SampleArgs, logits: u64) -> Result<(), BackendError> {
        let Step { shape, ring: Some(ring), plan, head_parts, .. } = &self.step else {
            return Err(failed("sample", "nothing was allocated"));
        };
        let (at, seen) = (&self.memory.at, &self.memory.seen);
        let params = SampleParams {
            step: at.tables,
            logits,
            tiles: at.tiles,
            drawn: at.drawn,
            last_tokens: at.last_tokens,
            entries: seen.entries.address(),
            biases: seen.biases.address(),
            logprobs: ring.logprobs_address(),
            masks: ring.masks.params(at.masks),
            vocab: word(args.logits.cols),
            tiles_per_row: tiles_per_row(args.logits.cols),
            outputs_max: word(plan.outputs_max),
            head_parts: *head_parts,
        };
        let rows = shape.outputs.min(TILE_ROWS_AT_ONCE);
        let tiles = [params.vocab.div_ceil(SAMPLE_TILE_LOGITS), rows, 1];
        self.device.launch(list::SAMPLE_TILES, tiles, &params)?;
        self.device.launch(list::SAMPLE_ROWS, [shape.outputs, 1, 1], &params)
    }
}

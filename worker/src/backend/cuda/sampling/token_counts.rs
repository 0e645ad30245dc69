//! What penalties and biases need of a slot: counts of its tokens, on the device.
//!
//! They go up when a slot is opened; from then on the device counts sampled tokens by itself, so a
//! plan never needs to know one. How logits are changed is in `backend/penalties.rs`.

use binfer_kernels::sample_params::{BIASES_MAX, Bias as BiasTwin};
use binfer_proto::Bias;

use super::staging::Staging;
use crate::backend::cuda::ffi::launch::CudaStream;
use crate::backend::cuda::ffi::memory::DeviceBuffer;
use crate::backend::cuda::ranks::CudaRanks;
use crate::backend::{BackendError, MemoryLayout, penalties};
use crate::batch::SlotTokens;

// The kernels' tables have room for what a plan may ask.
const _: () = assert!(BIASES_MAX == binfer_proto::BIASES_MAX);

/// Bytes of a slot's biases.
const BIAS_BYTES: usize = BIASES_MAX * size_of::<BiasTwin>();

/// Counts and biases of all slots. Nothing is read of a slot that was not opened with some.
#[derive(Debug)]
pub(in crate::backend::cuda) struct DeviceTokenCounts {
    /// `u16 [slots, vocabulary]`, see `backend/penalties.rs`.
    counts: DeviceBuffer,
    /// `[slots, BIASES_MAX]`.
    biases: DeviceBuffer,
    /// A slot's counts and biases on their way.
    staging: Staging,
    /// Counts of the slot that is opened.
    opened: Vec<u16>,
}

impl DeviceTokenCounts {
    /// Takes their memory.
    pub(super) fn new(layout: &MemoryLayout) -> Result<Self, BackendError> {
        let (slots, vocab) = (layout.slots_max, layout.vocab);
        let bytes = size_of::<u16>() * vocab;
        Ok(Self {
            counts: DeviceBuffer::new(bytes * slots)?,
            biases: DeviceBuffer::new(BIAS_BYTES * slots)?,
            staging: Staging::new(if slots == 0 { 0 } else { bytes + BIAS_BYTES })?,
            opened: vec![0; vocab],
        })
    }

    /// Bytes that [`Self::new`] takes of the device.
    pub(super) fn bytes_of(layout: &MemoryLayout) -> usize {
        layout.slots_max * (size_of::<u16>() * layout.vocab + BIAS_BYTES)
    }

    /// Bytes taken of the device.
    pub(super) fn bytes(&self) -> usize {
        self.counts.bytes() + self.biases.bytes()
    }

    /// Host memory taken.
    pub(super) fn host_bytes(&self) -> usize {
        self.staging.bytes()
    }

    /// Addresses of counts and biases.
    pub(super) fn addresses(&self) -> (u64, u64) {
        (self.counts.address(), self.biases.address())
    }

    /// Opens a slot anew, after all that the stream was given before.
    pub(super) fn open(
        &mut self,
        tokens: &SlotTokens,
        way: (&CudaStream, &CudaRanks),
    ) -> Result<(), BackendError> {
        let slot = tokens.slot.index();
        penalties::open(tokens, &mut self.opened);
        let counts: Vec<[u8; 2]> = self.opened.iter().map(|count| count.to_le_bytes()).collect();
        let words = |bias: &Bias| [bias.token, bias.value.to_bits()].map(u32::to_le_bytes);
        let biases: Vec<u8> = tokens.biases.iter().flat_map(words).flatten().collect();
        let counts = counts.as_flattened();
        let parts = [
            (counts, &self.counts, slot * counts.len()),
            (biases.as_slice(), &self.biases, slot * BIAS_BYTES),
        ];
        self.staging.send(&parts, way)
    }
}

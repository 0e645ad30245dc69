//! Token masks on their way to the device: slots of mapped memory that sampling waits at.
//!
//! A step that is masked is enqueued whole, out of a CUDA graph where there is one, before its
//! masks are known; its sampling then asks a word of its slot again and again. So there is one
//! graph for steps with masks and without, and those without pay nothing. A step that is given up
//! says so by the same word: nothing waits in the device for a host that is about to end. What
//! masks do is in `cuda/token_masks.cuh`.

use binfer_kernels::sample_params::{
    MASK_SLOTS, MASKS_AWAITED, MASKS_GIVEN, MASKS_GIVEN_UP, MaskParams,
};
use binfer_proto::Mask;

use crate::backend::cuda::ffi::memory::PinnedBuffer;
use crate::backend::{BackendError, MemoryLayout};

/// Bytes of a word.
const WORD_BYTES: usize = size_of::<u32>();

/// The slots in which masks travel, see `MaskParams`.
#[derive(Debug)]
pub(in crate::backend::cuda) struct TokenMasks {
    given: PinnedBuffer,
    rows: usize,
    /// Words of bits in a row.
    words: usize,
}

/// Words of bits in a row.
fn words(layout: &MemoryLayout) -> usize {
    layout.vocab.div_ceil(32)
}

/// Bytes that the device keeps of a step's masks.
pub(in crate::backend::cuda) fn kept_bytes(layout: &MemoryLayout) -> usize {
    WORD_BYTES * layout.outputs_max * (1 + words(layout))
}

impl TokenMasks {
    /// Takes their memory.
    pub(in crate::backend::cuda) fn new(layout: &MemoryLayout) -> Result<Self, BackendError> {
        let given = PinnedBuffer::new(MASK_SLOTS * (WORD_BYTES + kept_bytes(layout)))?;
        Ok(Self { given, rows: layout.outputs_max, words: words(layout) })
    }

    /// Host memory taken.
    pub(in crate::backend::cuda) fn bytes(&self) -> usize {
        self.given.bytes()
    }

    /// What kernels are told; the device keeps what it samples by at `kept`.
    pub(in crate::backend::cuda) fn params(&self, kept: u64) -> MaskParams {
        let words = u32::try_from(self.words).unwrap_or(u32::MAX);
        MaskParams { given: self.given.address(), kept, words, reserved: 0 }
    }

    /// A step of the ring's slot will wait; no step that is under way has the same one here.
    pub(in crate::backend::cuda) fn expect(
        &mut self,
        ring_slot: usize,
    ) -> Result<(), BackendError> {
        self.given.publish(self.state_of(ring_slot), MASKS_AWAITED)
    }

    /// Gives a step its masks, which were checked: by rising output.
    pub(in crate::backend::cuda) fn give(
        &mut self,
        ring_slot: usize,
        masks: &[Mask],
    ) -> Result<(), BackendError> {
        let (state, row_bytes) = (self.state_of(ring_slot), WORD_BYTES * (1 + self.words));
        let mut masks = masks.iter().peekable();
        for output in 0..self.rows {
            let at = state + WORD_BYTES + output * row_bytes;
            let mask = masks.next_if(|mask| mask.output as usize == output);
            self.given.store(at, &u32::from(mask.is_some()).to_le_bytes())?;
            if let Some(mask) = mask {
                self.given.store(at + WORD_BYTES, &mask.bits)?;
            }
        }
        self.given.publish(state, MASKS_GIVEN)
    }

    /// Steps that wait go on, as if there were no masks. Nobody looks at what they sample.
    pub(in crate::backend::cuda) fn give_up(&mut self) -> Result<(), BackendError> {
        (0..MASK_SLOTS).try_for_each(|slot| self.given.publish(self.state_of(slot), MASKS_GIVEN_UP))
    }

    /// Byte of the word that says whether a slot's masks have come.
    fn state_of(&self, ring_slot: usize) -> usize {
        ring_slot % MASK_SLOTS * WORD_BYTES * (1 + self.rows * (1 + self.words))
    }
}

//! Pinned memory on the way to the device while steps run: nobody waits for the device, unless all
//! pieces are on their way.
//!
//! Copies are in the stream's order, so that what they overwrite is what the steps before have
//! read.

use crate::backend::BackendError;
use crate::backend::cuda::ffi::error::failed;
use crate::backend::cuda::ffi::launch::{CudaEvent, CudaStream};
use crate::backend::cuda::ffi::memory::{DeviceBuffer, PinnedBuffer};
use crate::backend::cuda::ranks::CudaRanks;

/// Pieces. A step in which more slots begin waits for the steps before it.
const PIECES: usize = 16;

/// A piece of pinned memory, and the event that marks the end of its last copy.
#[derive(Debug)]
struct StagedPiece {
    buffer: PinnedBuffer,
    copied: CudaEvent,
}

/// Pieces of equal length, used in turn.
#[derive(Debug)]
pub(super) struct Staging {
    pieces: Vec<StagedPiece>,
    next: usize,
}

impl Staging {
    /// Pieces of so many bytes; none at all where that is none.
    pub(super) fn new(bytes: usize) -> Result<Self, BackendError> {
        let count = if bytes == 0 { 0 } else { PIECES };
        let piece =
            |_| Ok(StagedPiece { buffer: PinnedBuffer::new(bytes)?, copied: CudaEvent::new()? });
        Ok(Self { pieces: (0..count).map(piece).collect::<Result<_, BackendError>>()?, next: 0 })
    }

    /// Host memory taken.
    pub(super) fn bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.buffer.bytes()).sum()
    }

    /// Enqueues copies of `parts`, one after the other in one piece: each to its place in a buffer.
    pub(super) fn send(
        &mut self,
        parts: &[(&[u8], &DeviceBuffer, usize)],
        (stream, ranks): (&CudaStream, &CudaRanks),
    ) -> Result<(), BackendError> {
        let count = self.pieces.len();
        let piece = self.pieces.get_mut(self.next);
        let piece = piece.ok_or_else(|| failed("upload", "nothing was allocated"))?;
        self.next = (self.next + 1) % count;
        ranks.wait(&piece.copied)?;
        let mut end = 0;
        for (bytes, to, at) in parts.iter().filter(|(bytes, ..)| !bytes.is_empty()) {
            let from = end..end + bytes.len();
            piece.buffer.store(from.start, bytes)?;
            to.write_pinned(*at, &piece.buffer, from.clone(), stream)?;
            end = from.end;
        }
        piece.copied.record(stream)
    }
}

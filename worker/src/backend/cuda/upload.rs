//! The way of weights to the device: threads read and convert rows into pinned memory, the caller's
//! thread enqueues each piece's upload and hands its memory back when the device has it.
//!
//! Parts go to threads largest first, each read from end to end by one thread, so that checksums
//! can be followed along. All copies run in one stream.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread;

use binfer_shard::{Error, LocalPart};

use super::ffi::error::failed;
use super::ffi::launch::{CudaEvent, CudaStream};
use super::ffi::memory::{DeviceBuffer, PinnedBuffer};
use super::formats::RowFormat;
use crate::backend::BackendError;

/// Bytes of a piece, where a row is not longer.
const PIECE_BYTES: usize = 4 << 20;
/// Pieces of a thread: one is filled while another is uploaded.
const PIECES: usize = 2;
/// More threads than this do not read faster from the page cache.
const THREADS_MAX: usize = 16;

/// Rows of a part, and where they go.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartRows<'t> {
    pub(super) part: &'t LocalPart,
    /// Byte of the slab where the first row begins.
    pub(super) at: usize,
    pub(super) format: RowFormat,
    /// From a row to the next, on the device.
    pub(super) row_bytes: usize,
}

impl PartRows<'_> {
    /// Bytes on the device.
    pub(super) fn bytes(&self) -> usize {
        self.part.rows as usize * self.row_bytes
    }

    fn of_piece(&self) -> usize {
        (PIECE_BYTES / self.row_bytes.max(1)).max(1)
    }

    /// Bytes of a row as it comes.
    fn packed_bytes(&self) -> usize {
        usize::try_from(self.part.row_bytes()).unwrap_or(usize::MAX).max(1)
    }

    /// Whether rows lie on the device as they come.
    fn are_alike(&self) -> bool {
        self.format.is_stored_as(self.part.dtype)
            && self.part.inputs.len() == self.part.cols as usize
            && self.row_bytes == self.packed_bytes()
    }

    /// Writes a packed row as it lies on the device. `values` is scratch.
    fn convert(
        &self,
        packed: &[u8],
        values: &mut Vec<f32>,
        out: &mut [u8],
    ) -> Result<(), BackendError> {
        values.resize(self.part.cols as usize, 0.0);
        let inputs = self.part.inputs.start as usize..self.part.inputs.end as usize;
        self.format.write_row((self.part.dtype, packed), inputs, values, out)
    }
}

/// A piece of pinned memory, and the event that marks the end of its upload.
struct UploadPiece {
    buffer: PinnedBuffer,
    uploaded: CudaEvent,
}

/// A piece that is ready to be uploaded.
struct Filled {
    piece: UploadPiece,
    /// The thread that filled it.
    thread: usize,
    at: usize,
    bytes: usize,
    /// Bytes that were read for it.
    packed_bytes: u64,
}

/// A thread's ends of the channels.
struct UploadLane {
    thread: usize,
    free: Receiver<UploadPiece>,
    filled: Sender<Result<Filled, BackendError>>,
}

/// Reads all `parts` on `threads` threads and uploads them into the slab; `done` hears of bytes
/// read. All is there when this returns.
pub(super) fn upload<R: FnMut(&mut [u8]) -> Result<(), Error>>(
    mut parts: Vec<PartRows<'_>>,
    open: impl Fn(&LocalPart) -> Result<R, Error> + Sync,
    threads: usize,
    (slab, stream): (&DeviceBuffer, &CudaStream),
    done: &mut dyn FnMut(u64),
) -> Result<(), BackendError> {
    parts.sort_by_key(|rows| std::cmp::Reverse(rows.bytes()));
    let threads = threads.clamp(1, THREADS_MAX).min(parts.len());
    let row_bytes_max = parts.iter().map(|rows| rows.row_bytes).max().unwrap_or(0);
    let piece_bytes = PIECE_BYTES.min(parts.first().map_or(0, PartRows::bytes)).max(row_bytes_max);
    let (parts, open, next) = (&parts, &open, &AtomicUsize::new(0));
    thread::scope(|scope| {
        let (filled, ready) = mpsc::channel();
        let mut lanes = Vec::with_capacity(threads);
        for thread in 0..threads {
            let (give, free) = mpsc::channel();
            for _ in 0..PIECES {
                let buffer = PinnedBuffer::new(piece_bytes)?;
                let _ = give.send(UploadPiece { buffer, uploaded: CudaEvent::new()? });
            }
            let lane = UploadLane { thread, free, filled: filled.clone() };
            lanes.push(give);
            scope.spawn(move || work(&lane, parts, next, open));
        }
        drop(filled);
        // Leaving early drops the lanes, which ends the threads.
        Uploads { slab, stream, lanes: &lanes, under_way: VecDeque::new() }.run(&ready, done)
    })
}

/// Takes parts until there are no more.
fn work<R: FnMut(&mut [u8]) -> Result<(), Error>>(
    lane: &UploadLane,
    parts: &[PartRows<'_>],
    next: &AtomicUsize,
    open: &impl Fn(&LocalPart) -> Result<R, Error>,
) {
    while let Some(rows) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
        if let Err(error) = read(lane, rows, open) {
            let _ = lane.filled.send(Err(error));
            return;
        }
    }
}

/// Reads a part from end to end.
fn read<R: FnMut(&mut [u8]) -> Result<(), Error>>(
    lane: &UploadLane,
    rows: &PartRows<'_>,
    open: &impl Fn(&LocalPart) -> Result<R, Error>,
) -> Result<(), BackendError> {
    let mut fill = open(rows.part)?;
    let (count, packed_row) = (rows.part.rows as usize, rows.packed_bytes());
    let (mut packed, mut values) = (Vec::new(), Vec::new());
    for first in (0..count).step_by(rows.of_piece()) {
        let of_piece = rows.of_piece().min(count - first);
        let (bytes, packed_bytes) = (of_piece * rows.row_bytes, of_piece * packed_row);
        // A caller that is gone has failed and says so itself.
        let Ok(mut piece) = lane.free.recv() else { return Ok(()) };
        let out = piece.buffer.first_mut(bytes);
        if rows.are_alike() {
            fill(out)?;
        } else {
            packed.resize(packed_bytes, 0);
            fill(&mut packed)?;
            for (packed, out) in packed.chunks(packed_row).zip(out.chunks_mut(rows.row_bytes)) {
                rows.convert(packed, &mut values, out)?;
            }
        }
        let (at, packed_bytes) = (rows.at + first * rows.row_bytes, packed_bytes as u64);
        let filled = Filled { piece, thread: lane.thread, at, bytes, packed_bytes };
        if lane.filled.send(Ok(filled)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The caller's side.
struct Uploads<'a> {
    slab: &'a DeviceBuffer,
    stream: &'a CudaStream,
    /// Back to each thread.
    lanes: &'a [Sender<UploadPiece>],
    /// In the order of the stream.
    under_way: VecDeque<(usize, UploadPiece)>,
}

impl Uploads<'_> {
    /// Uploads what is ready until all threads have ended.
    fn run(
        &mut self,
        ready: &Receiver<Result<Filled, BackendError>>,
        done: &mut dyn FnMut(u64),
    ) -> Result<(), BackendError> {
        let mut bytes_done = 0;
        loop {
            let next = if self.under_way.is_empty() {
                ready.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                ready.try_recv()
            };
            match next {
                Ok(filled) => {
                    bytes_done += self.enqueue(filled?)?;
                    done(bytes_done);
                }
                Err(TryRecvError::Empty) => self.hand_back()?,
                Err(TryRecvError::Disconnected) if self.under_way.is_empty() => return Ok(()),
                Err(TryRecvError::Disconnected) => self.hand_back()?,
            }
        }
    }

    fn enqueue(&mut self, filled: Filled) -> Result<u64, BackendError> {
        let Filled { piece, thread, at, bytes, packed_bytes } = filled;
        self.slab.write_pinned(at, &piece.buffer, 0..bytes, self.stream)?;
        piece.uploaded.record(self.stream)?;
        self.under_way.push_back((thread, piece));
        Ok(packed_bytes)
    }

    /// Waits for the oldest upload and gives its piece back.
    fn hand_back(&mut self) -> Result<(), BackendError> {
        let Some((thread, piece)) = self.under_way.pop_front() else { return Ok(()) };
        piece.uploaded.wait()?;
        let lane = self.lanes.get(thread).ok_or_else(|| failed("upload", "no such thread"))?;
        // A thread without parts has no use for it.
        let _ = lane.send(piece);
        Ok(())
    }
}

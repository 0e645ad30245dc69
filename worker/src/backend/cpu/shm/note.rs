//! What a rank believes it is doing, as it tells its peers. Safe code.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// A collective operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CollectiveOp {
    AllReduce = 1,
    AllGather = 2,
}

/// A note in shared memory. Zero is valid for every field.
#[repr(C)]
pub(super) struct SharedNote {
    op: AtomicU32,
    sequence: AtomicU32,
    len: AtomicU64,
    shape: AtomicU64,
}

/// What a rank believes it is doing; equal on all ranks, or the exchange fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    op: u32,
    sequence: u32,
    /// Elements of the result.
    len: u64,
    /// Hash over the parts of which the result is made.
    shape: u64,
}

impl Note {
    /// What a rank does as its operation number `sequence`.
    pub(super) fn new(op: CollectiveOp, sequence: u32, len: usize, shape: u64) -> Self {
        Self { op: op as u32, sequence, len: len as u64, shape }
    }

    // Relaxed: ordered by `arrived`, as the data is; atomic so that a mistake cannot be undefined.
    pub(super) fn store(&self, to: &SharedNote) {
        to.op.store(self.op, Relaxed);
        to.sequence.store(self.sequence, Relaxed);
        to.len.store(self.len, Relaxed);
        to.shape.store(self.shape, Relaxed);
    }

    pub(super) fn load(from: &SharedNote) -> Self {
        Self {
            op: from.op.load(Relaxed),
            sequence: from.sequence.load(Relaxed),
            len: from.len.load(Relaxed),
            shape: from.shape.load(Relaxed),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = match self.op {
            1 => "all_reduce",
            2 => "all_gather",
            _ => "something unknown",
        };
        write!(f, "{op} #{} of {} values", self.sequence, self.len)?;
        if self.shape == 0 { Ok(()) } else { write!(f, " (parts {:016x})", self.shape) }
    }
}

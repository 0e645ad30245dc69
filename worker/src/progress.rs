//! Where the executing thread is, readable from any other: heartbeats carry it.
//!
//! Two words that the engine stores and the link loads. Deliberately absent: locks, history.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the executing thread is about to wait for or compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    /// Nothing entered yet.
    Idle,
    /// Slot table and upload.
    Pack,
    /// Embedding.
    Embed,
    /// Norm and QKV product.
    Qkv,
    /// Attention.
    Attend,
    /// Output product and sum over ranks.
    AttendOut,
    /// Norm, gate and up products.
    GateUp,
    /// Down product and sum over ranks.
    Down,
    /// Final norm, logits and their gathering.
    Head,
    /// Sampling.
    Sample,
}

const OPERATIONS: [(Operation, &str); 10] = [
    (Operation::Idle, "idle"),
    (Operation::Pack, "pack"),
    (Operation::Embed, "embed"),
    (Operation::Qkv, "attn.qkv"),
    (Operation::Attend, "attn.attend"),
    (Operation::AttendOut, "attn.out"),
    (Operation::GateUp, "ffn.gate_up"),
    (Operation::Down, "ffn.down"),
    (Operation::Head, "head"),
    (Operation::Sample, "sample"),
];

/// Layer number of operations outside of layers.
const NO_LAYER: u64 = 0xffff;

/// Shared between the executing thread (writes) and the link (reads).
#[derive(Debug, Default)]
pub struct Progress {
    step_launched: AtomicU64,
    step_finished: AtomicU64,
    /// Operation in the low 8 bits, layer in the next 16, count of operations in the rest.
    last: AtomicU64,
}

/// A reading of [`Progress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Last step launched.
    pub step_launched: u64,
    /// Last step finished.
    pub step_finished: u64,
    /// Operations entered so far; wraps at 2^40.
    pub operations: u64,
    layer: u64,
    operation: u64,
}

impl Progress {
    /// A step begins.
    pub fn launched(&self, step: u64) {
        self.step_launched.store(step, Ordering::Relaxed);
    }

    /// A step is over.
    pub fn finished(&self, step: u64) {
        self.step_finished.store(step, Ordering::Relaxed);
        self.enter(Operation::Idle, None);
    }

    /// An operation is about to run.
    pub fn enter(&self, operation: Operation, layer: Option<usize>) {
        let count = (self.last.load(Ordering::Relaxed) >> 24).wrapping_add(1);
        let layer = layer.map_or(NO_LAYER, |layer| layer as u64 & NO_LAYER);
        self.last.store(count << 24 | layer << 8 | operation as u64, Ordering::Relaxed);
    }

    /// Where the executing thread is.
    pub fn snapshot(&self) -> Snapshot {
        let last = self.last.load(Ordering::Relaxed);
        Snapshot {
            step_launched: self.step_launched.load(Ordering::Relaxed),
            step_finished: self.step_finished.load(Ordering::Relaxed),
            operations: last >> 24,
            layer: last >> 8 & NO_LAYER,
            operation: last & 0xff,
        }
    }
}

impl Snapshot {
    /// The last operation entered, as `layers.17.attn.attend`.
    pub fn operation(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = OPERATIONS
            .iter()
            .find(|(operation, _)| *operation as u64 == self.operation)
            .map_or("unknown", |(_, name)| name);
        if self.layer == NO_LAYER {
            return f.write_str(name);
        }
        write!(f, "layers.{}.{name}", self.layer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_names_layer_and_operation() {
        let progress = Progress::default();
        progress.launched(7);
        progress.enter(Operation::AttendOut, Some(17));
        let at = progress.snapshot();
        assert_eq!((at.step_launched, at.operations), (7, 1));
        assert_eq!(at.operation(), "layers.17.attn.out");
        progress.enter(Operation::Head, None);
        assert_eq!(progress.snapshot().operation(), "head");
    }
}

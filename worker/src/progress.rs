//! Where the executing thread is, readable from any other: heartbeats carry it.
//!
//! It is a few words that the engine stores and the link loads, without locks or history.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the executing thread is about to wait for or compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    /// No operation was entered yet.
    Idle,
    /// Slot table, packing and upload.
    Pack,
    /// Embedding.
    Embed,
    /// Norm and QKV gemm.
    Qkv,
    /// Norm and gemms of latent attention's queries.
    Queries,
    /// Norm and gemm of what latent attention caches.
    Latent,
    /// Attention.
    Attend,
    /// Output gemm and sum over ranks.
    AttnOut,
    /// Norm, gate and up gemm.
    GateUp,
    /// Down gemm and sum over ranks.
    Down,
    /// Norm, router, experts and sum over ranks.
    Moe,
    /// Final norm, logits and their gathering.
    Head,
    /// The wait for the step's token masks.
    Masks,
    /// Sampling.
    Sample,
    /// All operations of a step, out of a CUDA graph.
    GraphReplay,
}

const OPERATIONS: [(Operation, &str); 15] = [
    (Operation::Idle, "idle"),
    (Operation::Pack, "pack"),
    (Operation::Embed, "embed"),
    (Operation::Qkv, "attn.qkv"),
    (Operation::Queries, "attn.queries"),
    (Operation::Latent, "attn.latent"),
    (Operation::Attend, "attn.attend"),
    (Operation::AttnOut, "attn.out"),
    (Operation::GateUp, "ffn.gate_up"),
    (Operation::Down, "ffn.down"),
    (Operation::Moe, "ffn.moe"),
    (Operation::Head, "head"),
    (Operation::Masks, "masks"),
    (Operation::Sample, "sample"),
    (Operation::GraphReplay, "CUDA graph"),
];

/// Stands in place of a layer for operations outside of layers.
const NO_LAYER: u64 = 0xffff;

/// Where the engine is. The executing thread writes it, and the link reads it.
#[derive(Debug)]
pub struct StepProgress {
    step_launched: AtomicU64,
    step_finished: AtomicU64,
    /// Operation in the low 8 bits, layer in the next 16 (or rows of a CUDA graph), count of
    /// operations in the rest.
    last: AtomicU64,
}

/// A reading of [`StepProgress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Last step launched.
    pub step_launched: u64,
    /// Last step finished.
    pub step_finished: u64,
    /// Operations entered so far; wraps at 2^40.
    pub operations: u64,
    /// Layer of the operation, or rows of the CUDA graph.
    place: u64,
    operation: u64,
}

impl Default for StepProgress {
    fn default() -> Self {
        let (step_launched, step_finished) = (AtomicU64::new(0), AtomicU64::new(0));
        let last = AtomicU64::new(NO_LAYER << 8 | Operation::Idle as u64);
        Self { step_launched, step_finished, last }
    }
}

impl StepProgress {
    /// Notes that a step begins.
    pub fn launched(&self, step: u64) {
        self.step_launched.store(step, Ordering::Relaxed);
    }

    /// Notes that a step is over. Where another step is under way, its operation stays the last
    /// one.
    pub fn finished(&self, step: u64) {
        self.step_finished.store(step, Ordering::Relaxed);
        if step >= self.step_launched.load(Ordering::Relaxed) {
            self.enter(Operation::Idle, None);
        }
    }

    /// Notes that an operation is about to run.
    pub fn enter(&self, operation: Operation, layer: Option<usize>) {
        self.put(operation, layer.map_or(NO_LAYER, |layer| layer as u64));
    }

    /// Notes that a CUDA graph for a step of so many rows was enqueued.
    pub fn enter_graph(&self, rows: usize) {
        self.put(Operation::GraphReplay, rows as u64);
    }

    fn put(&self, operation: Operation, place: u64) {
        let count = (self.last.load(Ordering::Relaxed) >> 24).wrapping_add(1);
        let last = count << 24 | (place & NO_LAYER) << 8 | operation as u64;
        self.last.store(last, Ordering::Relaxed);
    }

    /// Where the executing thread is.
    pub fn snapshot(&self) -> Snapshot {
        let last = self.last.load(Ordering::Relaxed);
        Snapshot {
            step_launched: self.step_launched.load(Ordering::Relaxed),
            step_finished: self.step_finished.load(Ordering::Relaxed),
            operations: last >> 24,
            place: last >> 8 & NO_LAYER,
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
        let place = self.place;
        if self.operation == Operation::GraphReplay as u64 {
            return write!(f, "{name} of {place} rows");
        }
        if place == NO_LAYER {
            return f.write_str(name);
        }
        write!(f, "layers.{place}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_names_layer_and_operation() {
        let progress = StepProgress::default();
        progress.launched(7);
        progress.enter(Operation::AttnOut, Some(17));
        let at = progress.snapshot();
        assert_eq!((at.step_launched, at.operations), (7, 1));
        assert_eq!(at.operation(), "layers.17.attn.out");
        progress.enter(Operation::Head, None);
        assert_eq!(progress.snapshot().operation(), "head");
    }

    #[test]
    fn who_has_entered_nothing_is_idle() {
        assert_eq!(StepProgress::default().snapshot().operation(), "idle");
    }

    #[test]
    fn a_step_that_ends_while_another_runs_leaves_that_ones_operation() {
        let progress = StepProgress::default();
        progress.launched(1);
        progress.enter_graph(200);
        progress.launched(2);
        progress.enter_graph(5);
        progress.finished(1);
        let at = progress.snapshot();
        assert_eq!((at.step_launched, at.step_finished), (2, 1));
        assert_eq!(at.operation(), "CUDA graph of 5 rows");
        progress.finished(2);
        assert_eq!(progress.snapshot().operation(), "idle");
    }
}

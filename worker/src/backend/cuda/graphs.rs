//! Decode steps as CUDA graphs: one a bucket of rows, chosen from the plan alone.
//!
//! A graph holds everything from the step's first kernel to its last. Padding rows have length 0:
//! they write no cache and sample nothing.

use std::collections::BTreeMap;

use binfer_proto::{Sampling, SlotId};

use super::device::CudaDevice;
use super::ffi::capture::{Capture, CaptureMode, GraphExec};
use super::ffi::error::failed;
use super::ffi::launch::CudaStream;
use super::launch::{LaunchShape, to_u32};
use super::ledger::DeviceLedger;
use crate::backend::{BackendError, MemoryLayout, StepMode};
use crate::batch::{Batch, BatchOutput, BatchRow, TokenInput};

/// Rows of the largest graph.
const ROWS_MAX: usize = 256;

/// The graphs of decode steps, by rows.
#[derive(Default)]
pub(super) struct Graphs {
    is_enabled: bool,
    /// Rows that decode steps are padded to.
    pub(super) buckets: Vec<usize>,
    /// Each with the number of times that its step notes.
    graphs: BTreeMap<u32, (GraphExec, usize)>,
    /// The capture under way, and its rows. Dropping it ends it, and what was captured is lost.
    capture: Option<(u32, Capture)>,
}

/// Rows of all buckets of steps within `layout`: 1, 2, 3, 4, 6, 8, by 8 to 64, by 16 to 256.
pub(super) fn buckets(layout: &MemoryLayout) -> Vec<usize> {
    let steps = (16..=64).step_by(8).chain((80..=ROWS_MAX).step_by(16));
    let rows_max = layout.tokens_max.min(layout.slots_max).min(layout.outputs_max).min(ROWS_MAX);
    let all = [1, 2, 3, 4, 6, 8].into_iter().chain(steps);
    let mut all: Vec<usize> = all.take_while(|rows| *rows < rows_max).collect();
    all.extend((rows_max > 0).then_some(rows_max));
    all
}

/// Rows at which collectives are tried: those of graphs, then powers of two.
pub(super) fn collective_rows(layout: &MemoryLayout) -> impl Iterator<Item = usize> {
    let most = layout.tokens_max.max(layout.outputs_max);
    let larger = (8..usize::BITS).map(|power| 1 << power).take_while(move |rows| *rows < most);
    buckets(layout).into_iter().chain(larger).chain([most])
}

/// The bucket that a step of `rows` decode rows falls into.
fn bucket(rows: usize, buckets: &[usize]) -> Option<usize> {
    buckets.iter().copied().find(|bucket| rows > 0 && *bucket >= rows)
}

/// A step of the shape of a graph; its contents do not matter.
pub(super) fn placeholder_batch(rows: usize) -> Batch {
    let slot = |row: usize| SlotId(to_u32(row));
    let row = |row: usize| BatchRow { slot: slot(row), first: row, count: 1, start: 0 };
    let output = |row: usize| BatchOutput {
        token: row,
        slot: slot(row),
        sampling: Sampling::GREEDY,
        seed: 0,
        choice: 0,
        position: 1,
        biases: 0,
        logprobs: 0,
    };
    Batch {
        opened: Vec::new(),
        new_blocks: Vec::new(),
        tokens: vec![TokenInput::Known(0); rows],
        positions: vec![0; rows],
        rows: (0..rows).map(row).collect(),
        outputs: (0..rows).map(output).collect(),
        masked: false,
    }
}

impl Graphs {
    /// Without graphs decode steps have the same shapes and are launched kernel by kernel.
    pub(super) fn new(is_enabled: bool) -> Self {
        Self { is_enabled, ..Self::default() }
    }

    /// Graphs for steps within `layout`.
    pub(super) fn choose_buckets(&mut self, layout: &MemoryLayout) {
        self.buckets = buckets(layout);
    }

    /// Rows of the graphs to capture. Where graphs are off one step is captured all the same, which
    /// shows what the model's gemms are.
    pub(super) fn wanted(&self) -> Vec<usize> {
        let mut wanted = self.buckets.clone();
        wanted.truncate(if self.is_enabled { usize::MAX } else { 1 });
        wanted
    }

    /// What launches for a batch cover: a bucket for decode steps, exactly the batch otherwise.
    pub(super) fn shape_of(&self, batch: &Batch) -> LaunchShape {
        let (tokens, rows, outputs) = (batch.tokens.len(), batch.rows.len(), batch.outputs.len());
        let is_decode =
            tokens == rows && outputs == rows && batch.rows.iter().all(|row| row.count == 1);
        match bucket(rows, &self.buckets).filter(|_| is_decode) {
            Some(bucket) => LaunchShape::of_bucket(to_u32(bucket)),
            None => LaunchShape {
                tokens: to_u32(tokens),
                rows: to_u32(rows),
                outputs: to_u32(outputs),
                mode: StepMode::Eager,
            },
        }
    }

    /// Whether launches are captured at the moment.
    pub(super) fn is_capturing(&self) -> bool {
        self.capture.is_some()
    }

    /// Ends a capture that nobody ended, because an operation of it failed.
    pub(super) fn give_up(&mut self) {
        self.capture = None;
    }

    /// From here on, launches are captured: a step of so many rows.
    pub(super) fn begin(&mut self, rows: u32, stream: &CudaStream) -> Result<(), BackendError> {
        self.give_up();
        let capture = Capture::begin(stream, CaptureMode::ThreadLocal)?;
        self.capture = Some((rows, capture));
        Ok(())
    }

    /// Ends the capture and keeps the graph, whose step notes `stamps` times.
    pub(super) fn end(
        &mut self,
        device: &CudaDevice,
        ledger: &mut DeviceLedger,
        stamps: usize,
    ) -> Result<(), BackendError> {
        let capture = self.capture.take();
        let (rows, capture) =
            capture.ok_or_else(|| failed("capture", "nothing is being captured"))?;
        let graph = capture.end()?;
        let instantiate = || graph.instantiate(&device.stream);
        let graph = ledger.count("graphs", &device.context, instantiate)?;
        if self.is_enabled {
            self.graphs.insert(rows, (graph, stamps));
        }
        Ok(())
    }

    /// Enqueues the graph for a step of such a shape, if there is one; how many times it notes.
    pub(super) fn launch(
        &self,
        shape: LaunchShape,
        stream: &CudaStream,
    ) -> Result<Option<usize>, BackendError> {
        let graph = self.graphs.get(&shape.rows).filter(|_| shape.mode == StepMode::Graph);
        let Some((graph, stamps)) = graph else { return Ok(None) };
        graph.launch(stream)?;
        Ok(Some(*stamps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rows_max: usize) -> Vec<usize> {
        let (tokens_max, slots_max, outputs_max) = (512, rows_max, rows_max);
        buckets(&MemoryLayout { tokens_max, slots_max, outputs_max, ..MemoryLayout::default() })
    }

    #[test]
    fn buckets_end_at_the_most_rows_that_a_step_can_have() {
        assert_eq!(of(1), [1]);
        assert_eq!(of(5), [1, 2, 3, 4, 5]);
        assert_eq!(of(64)[6..], [16, 24, 32, 40, 48, 56, 64]);
        let all = of(4096);
        assert_eq!((all.len(), all.last()), (25, Some(&256)));
    }

    #[test]
    fn a_step_falls_into_the_smallest_bucket_that_holds_it() {
        let all = of(100);
        assert_eq!(
            [0, 1, 5, 65, 97, 100, 101].map(|rows| bucket(rows, &all)),
            [None, Some(1), Some(6), Some(80), Some(100), Some(100), None]
        );
    }
}

//! Decode steps as recordings: one graph a bucket, chosen from the plan alone.
//!
//! A recording holds everything from the step's first kernel to its last. Padding rows have length
//! 0: they write no cache and draw nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use binfer_proto::{Sampling, SlotId};

use super::CudaBackend;
use super::ffi::failed;
use super::ffi::recording::{Calls, Graph, Recording};
use super::product::word;
use super::step::LaunchShape;
use crate::backend::{BackendError, MemoryPlan};
use crate::batch::{Batch, BatchOutput, BatchRow, TokenInput};

/// Rows of the largest recording.
const ROWS_MAX: usize = 256;

/// Recordings by rows.
#[derive(Default)]
pub(super) struct Recordings {
    /// With how many times each notes.
    graphs: BTreeMap<u32, (Graph, usize)>,
    /// Rows of the one that is being made. Dropped, it ends; what was recorded is lost.
    under_way: Option<(u32, Recording)>,
    /// What runs on general kernels where there are better ones for published shapes.
    general: BTreeSet<String>,
}

impl Recordings {
    /// Whether launches are recorded at the moment.
    pub(super) fn is_recording(&self) -> bool {
        self.under_way.is_some()
    }

    /// Ends a recording that nobody ended, because an operation of it failed.
    pub(super) fn give_up(&mut self) {
        self.under_way = None;
    }
}

/// Rows of all buckets of steps within `plan`: 1, 2, 3, 4, 6, 8, by 8 to 64, by 16 to 256.
pub(super) fn buckets(plan: &MemoryPlan) -> Vec<usize> {
    let steps = (16..=64).step_by(8).chain((80..=ROWS_MAX).step_by(16));
    let rows_max = plan.tokens_max.min(plan.slots_max).min(plan.outputs_max).min(ROWS_MAX);
    let all = [1, 2, 3, 4, 6, 8].into_iter().chain(steps);
    let mut all: Vec<usize> = all.take_while(|rows| *rows < rows_max).collect();
    all.extend((rows_max > 0).then_some(rows_max));
    all
}

/// Rows at which collectives are tried: those of recordings, then powers of two.
pub(super) fn collective_rows(plan: &MemoryPlan) -> impl Iterator<Item = usize> {
    let most = plan.tokens_max.max(plan.outputs_max);
    let larger = (8..usize::BITS).map(|power| 1 << power).take_while(move |rows| *rows < most);
    buckets(plan).into_iter().chain(larger).chain([most])
}

/// The bucket that a step of `rows` decode rows falls into.
pub(super) fn bucket(rows: usize, buckets: &[usize]) -> Option<usize> {
    buckets.iter().copied().find(|bucket| rows > 0 && *bucket >= rows)
}

/// A step of the shape of a recording; its contents do not matter.
fn stand_in(rows: usize, groups: usize) -> Batch {
    let slot = |row: usize| SlotId(word(row));
    let row = |row: usize| BatchRow {
        slot: slot(row),
        first: row,
        count: 1,
        start: 0,
        block_tables: vec![Vec::new(); groups],
    };
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
        begun: Vec::new(),
        tokens: vec![TokenInput::Known(0); rows],
        positions: vec![0; rows],
        rows: (0..rows).map(row).collect(),
        outputs: (0..rows).map(output).collect(),
        masked: false,
    }
}

impl CudaBackend {
    /// What recordings to make; without graphs only one, which shows what the model's products are.
    pub(super) fn wanted_recordings(&self) -> Vec<usize> {
        let mut wanted = self.step.buckets.clone();
        wanted.truncate(if self.settings.graphs { usize::MAX } else { 1 });
        wanted
    }

    /// From here on, launches are recorded.
    pub(super) fn start_recording(&mut self, rows: usize) -> Result<Arc<Batch>, BackendError> {
        let batch = Arc::new(stand_in(rows, self.step.plan.blocks_per_slot.len()));
        let all = u32::try_from(rows).map_err(|_| failed("record", "too many rows"))?;
        self.step.batch = Arc::clone(&batch);
        self.step.shape = LaunchShape { tokens: all, rows: all, outputs: all, is_decode: true };
        self.step.rope = None;
        self.step.attend_plans.clear();
        self.step.stamps = 0;
        self.step.begun_norm = None;
        self.step.head_parts = 0;
        self.recordings.give_up();
        let recording = Recording::begin(&self.device.stream, Calls::Recordable)?;
        self.recordings.under_way = Some((all, recording));
        self.launch_apply()?;
        Ok(batch)
    }

    /// Keeps what was recorded. The first time, all products are known.
    pub(super) fn stop_recording(&mut self) -> Result<(), BackendError> {
        self.launch_finish()?;
        let under_way = self.recordings.under_way.take();
        let (rows, recording) =
            under_way.ok_or_else(|| failed("record", "nothing is being recorded"))?;
        let recorded = recording.end()?;
        let make = || recorded.ready(&self.device.stream);
        let graph = self.ledger.count("graphs", &self.device.context, make)?;
        if self.settings.graphs {
            self.recordings.graphs.insert(rows, (graph, self.step.stamps));
        }
        self.prepare_library()
    }

    /// Remembers that part of a step falls to a general kernel: of recordings, and of the rehearsal
    /// behind them, which show all that a model needs.
    pub(super) fn note_general(&mut self, what: impl FnOnce() -> String) {
        if self.recordings.is_recording() || self.step.is_first() {
            self.recordings.general.insert(what());
        }
    }

    /// The same for people.
    pub(super) fn general_note(&self) -> Option<String> {
        let general: Vec<&str> = self.recordings.general.iter().map(String::as_str).collect();
        let what = general.join(", ");
        (!general.is_empty()).then(|| format!("slow, general kernels take {what}"))
    }

    /// Enqueues the recording for the step that was begun, if there is one.
    pub(super) fn replay(&mut self) -> Result<bool, BackendError> {
        let shape = self.step.shape;
        let graph = self.recordings.graphs.get(&shape.rows).filter(|_| shape.is_decode);
        let Some((graph, stamps)) = graph else { return Ok(false) };
        self.step.stamps = *stamps;
        graph.replay(&self.device.stream)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rows_max: usize) -> Vec<usize> {
        let (tokens_max, slots_max, outputs_max) = (512, rows_max, rows_max);
        buckets(&MemoryPlan { tokens_max, slots_max, outputs_max, ..MemoryPlan::default() })
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

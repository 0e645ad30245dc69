//! What several ranks add to the operations: sums of the residual stream, gathered logits, and the
//! run of each collective before it is captured.

use binfer_kernels::list::{self, MERGE_LOGITS_EACH};
use binfer_kernels::rank_params::{MergeLogitsParams, RANKS_MAX};

use super::ffi::error::failed;
use super::ffi::launch::{CudaEvent, CudaStream};
use super::launch::{Launcher, to_u32};
use super::ranks::CudaRanks;
use crate::backend::args::{HeadArgs, Tensor};
use crate::backend::{BackendError, MemoryLayout};

/// Rows of the vocabulary on a rank are padded to so many, so that every part begins well.
const VOCAB_ROWS_UNIT: usize = 64;

/// Where this rank's logits go.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogitsPlace {
    pub(super) address: u64,
    /// Floats from an output's to the next.
    pub(super) stride: u32,
}

/// Floats that an output takes in each rank's part of gathered logits; 0 for a rank alone.
fn gathered_stride(layout: &MemoryLayout) -> usize {
    let largest = layout.vocab_rows.iter().max().filter(|_| layout.vocab_rows.len() > 1);
    largest.map_or(0, |rows| rows.next_multiple_of(VOCAB_ROWS_UNIT))
}

/// Bytes of the logits of all ranks before they lie side by side.
pub(super) fn gathered_bytes(layout: &MemoryLayout) -> usize {
    4 * layout.outputs_max * layout.vocab_rows.len() * gathered_stride(layout)
}

/// The sums and gathers of a step, in the stream's order.
pub(super) struct Collectives {
    pub(super) ranks: CudaRanks,
    /// f32 `[ranks, outputs, stride]`: where logits of all ranks come together.
    gathered: u64,
    stride: usize,
    /// Rows of the head by rank.
    vocab_rows: Vec<usize>,
}

impl Collectives {
    /// Collectives before memory was planned.
    pub(super) fn new(ranks: CudaRanks) -> Self {
        Self { ranks, gathered: 0, stride: 0, vocab_rows: Vec::new() }
    }

    /// Logits come together at `gathered`.
    pub(super) fn place(&mut self, layout: &MemoryLayout, gathered: u64) {
        (self.gathered, self.stride) = (gathered, gathered_stride(layout));
        self.vocab_rows.clone_from(&layout.vocab_rows);
    }

    /// Enqueues: `x`, which lies at `address`, becomes the sum of all ranks'.
    pub(super) fn sum(
        &self,
        on: &Launcher<'_>,
        operation: &'static str,
        (address, x): (u64, &Tensor),
    ) -> Result<(), BackendError> {
        let count = on.shape.covered_rows(x.rows) * x.cols;
        self.ranks.sum(operation, (address, count), &on.device.stream)?;
        self.after_collective(on, "ncclAllReduce");
        Ok(())
    }

    /// Where a gemm with this rank's rows of the head goes, when all logits go to `logits`.
    pub(super) fn logits_place(
        &self,
        on: &Launcher<'_>,
        args: &HeadArgs,
        logits: u64,
    ) -> LogitsPlace {
        if !self.ranks.are_several() {
            let address = logits + 4 * args.first_token as u64;
            return LogitsPlace { address, stride: to_u32(args.logits.cols) };
        }
        let covered = on.shape.covered_rows(args.logits.rows);
        let before = self.ranks.rank() * covered * self.stride;
        LogitsPlace { address: self.gathered + 4 * before as u64, stride: to_u32(self.stride) }
    }

    /// Enqueues: all ranks' logits come to `logits`.
    pub(super) fn gather_logits(
        &self,
        on: &Launcher<'_>,
        args: &HeadArgs,
        logits: u64,
    ) -> Result<(), BackendError> {
        if !self.ranks.are_several() {
            return Ok(());
        }
        let (outputs, gathered) = (on.shape.covered_rows(args.logits.rows), self.gathered);
        self.ranks.gather("head", (gathered, outputs * self.stride), &on.device.stream)?;
        self.after_collective(on, "ncclAllGather");
        let vocab = to_u32(args.logits.cols);
        let mut first_tokens = [vocab; RANKS_MAX + 1];
        let mut first = 0;
        for (place, rows) in first_tokens.iter_mut().zip(&self.vocab_rows) {
            *place = first;
            first += to_u32(*rows);
        }
        let (outputs, stride) = (to_u32(outputs), to_u32(self.stride));
        let params = MergeLogitsParams { gathered, logits, outputs, stride, vocab, first_tokens };
        let grid = [vocab.div_ceil(MERGE_LOGITS_EACH), outputs, 1];
        on.device.launch(list::MERGE_LOGITS, grid, &params)
    }

    /// NCCL's kernels know nothing of dependent launch.
    fn after_collective(&self, on: &Launcher<'_>, name: &'static str) {
        if self.ranks.are_several() {
            on.device.note_launch(name);
            on.device.wait_for_all_before_next();
        }
    }

    /// Runs every collective once with each of these numbers of rows, so that nothing connects and
    /// takes memory later. What the sums over `arena` are does not matter.
    pub(super) fn connect(
        &self,
        layout: &MemoryLayout,
        rows: impl Iterator<Item = usize>,
        (arena, stream): (u64, &CudaStream),
    ) -> Result<(), BackendError> {
        if !self.ranks.are_several() {
            return Ok(());
        }
        let ranks = layout.vocab_rows.len();
        if !(2..=RANKS_MAX).contains(&ranks) || layout.arena < layout.tokens_max * layout.hidden {
            let cause = format!("{ranks} ranks, an arena of {} elements", layout.arena);
            return Err(failed("allocate", cause));
        }
        self.ranks.step_begins();
        for rows in rows {
            let x = (arena, rows.min(layout.tokens_max) * layout.hidden);
            self.ranks.sum("allocate", x, stream)?;
            let logits = (self.gathered, rows.min(layout.outputs_max) * self.stride);
            self.ranks.gather("allocate", logits, stream)?;
        }
        let end = CudaEvent::new()?;
        end.record(stream)?;
        self.ranks.wait(&end)?;
        self.ranks.step_ended();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathered_logits_have_room_for_the_largest_rank_on_each() {
        let of = |vocab_rows: &[usize]| MemoryLayout {
            outputs_max: 3,
            vocab_rows: vocab_rows.to_vec(),
            ..MemoryLayout::default()
        };
        assert_eq!(gathered_bytes(&of(&[352])), 0, "a rank alone gathers nothing");
        let layout = of(&[96, 160, 97]);
        assert_eq!(gathered_stride(&layout), 192);
        assert_eq!(gathered_bytes(&layout), 4 * 3 * 3 * 192);
    }
}

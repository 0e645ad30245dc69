//! What several ranks add to the operations: sums of the residual stream, gathered logits, and the
//! run of each collective before it is recorded.

use binfer_kernels::list::{self, MERGE_LOGITS_EACH};
use binfer_kernels::rank_params::{MergeLogitsParams, RANKS_MAX};

use super::CudaBackend;
use super::ffi::failed;
use super::ffi::launch::Event;
use super::product::word;
use crate::backend::args::{HeadArgs, Tensor};
use crate::backend::{BackendError, MemoryPlan};

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
fn gathered_stride(plan: &MemoryPlan) -> usize {
    let largest = plan.vocab_rows.iter().max().filter(|_| plan.vocab_rows.len() > 1);
    largest.map_or(0, |rows| rows.next_multiple_of(VOCAB_ROWS_UNIT))
}

/// Bytes of the logits of all ranks before they lie side by side.
pub(super) fn gathered_bytes(plan: &MemoryPlan) -> usize {
    4 * plan.outputs_max * plan.vocab_rows.len() * gathered_stride(plan)
}

impl CudaBackend {
    /// Rows that launches cover: at least those of the tensor.
    pub(super) fn covered_rows(&self, tensor: &Tensor) -> usize {
        let shape = self.step.shape;
        let covered = if shape.is_decode { shape.rows as usize } else { 0 };
        tensor.rows.max(covered)
    }

    /// Enqueues: `x`, which lies at `address`, becomes the sum of all ranks'.
    pub(super) fn sum_over_ranks(
        &self,
        operation: &'static str,
        address: u64,
        x: &Tensor,
    ) -> Result<(), BackendError> {
        let count = self.covered_rows(x) * x.cols;
        self.ranks.sum(operation, (address, count), &self.device.stream)?;
        self.after_collective("ncclAllReduce");
        Ok(())
    }

    /// Where a product with this rank's rows of the head goes, when all logits go to `logits`.
    pub(super) fn logits_place(&self, args: &HeadArgs, logits: u64) -> LogitsPlace {
        if !self.ranks.are_several() {
            let address = logits + 4 * args.first_token as u64;
            return LogitsPlace { address, stride: word(args.logits.cols) };
        }
        let stride = gathered_stride(&self.step.plan);
        let before = self.ranks.rank() * self.covered_rows(&args.logits) * stride;
        LogitsPlace { address: self.memory.at.gathered + 4 * before as u64, stride: word(stride) }
    }

    /// Enqueues: all ranks' logits come to `logits`.
    pub(super) fn gather_logits(&self, args: &HeadArgs, logits: u64) -> Result<(), BackendError> {
        if !self.ranks.are_several() {
            return Ok(());
        }
        let (outputs, plan) = (self.covered_rows(&args.logits), &self.step.plan);
        let (stride, gathered) = (gathered_stride(plan), self.memory.at.gathered);
        self.ranks.gather("head", (gathered, outputs * stride), &self.device.stream)?;
        self.after_collective("ncclAllGather");
        let vocab = word(args.logits.cols);
        let mut first_tokens = [vocab; RANKS_MAX + 1];
        let mut first = 0;
        for (place, rows) in first_tokens.iter_mut().zip(&plan.vocab_rows) {
            *place = first;
            first += word(*rows);
        }
        let (outputs, stride) = (word(outputs), word(stride));
        let params = MergeLogitsParams { gathered, logits, outputs, stride, vocab, first_tokens };
        let grid = [vocab.div_ceil(MERGE_LOGITS_EACH), outputs, 1];
        self.device.launch(list::MERGE_LOGITS, grid, &params)
    }

    /// The library's kernels know nothing of dependent launch.
    fn after_collective(&self, name: &'static str) {
        if self.ranks.are_several() {
            self.device.note_launch(name);
            self.device.wait_for_all_before_next();
        }
    }

    /// Does what takes device memory for collectives, and counts that.
    pub(super) fn measured<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let (before, _) = self.device.context.memory_bytes()?;
        let done = work(self)?;
        let (after, _) = self.device.context.memory_bytes()?;
        self.ledger.add("NCCL", before.saturating_sub(after));
        Ok(done)
    }

    /// Runs every collective once at each size that a recording has, and at larger ones, so that
    /// nothing connects and takes memory later. What the sums are does not matter.
    pub(super) fn run_collectives(&self, plan: &MemoryPlan) -> Result<(), BackendError> {
        if !self.ranks.are_several() {
            return Ok(());
        }
        let ranks = plan.vocab_rows.len();
        if !(2..=RANKS_MAX).contains(&ranks) || plan.arena < plan.tokens_max * plan.hidden {
            let cause = format!("{ranks} ranks, an arena of {} elements", plan.arena);
            return Err(failed("allocate", cause));
        }
        let (stream, stride) = (&self.device.stream, gathered_stride(plan));
        self.ranks.step_begins();
        for rows in super::graph::collective_rows(plan) {
            let tokens = rows.min(plan.tokens_max);
            let x = (self.memory.arena.address(), tokens * plan.hidden);
            self.ranks.sum("allocate", x, stream)?;
            let logits = (self.memory.at.gathered, rows.min(plan.outputs_max) * stride);
            self.ranks.gather("allocate", logits, stream)?;
        }
        let end = Event::new()?;
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
        let of = |vocab_rows: &[usize]| MemoryPlan {
            outputs_max: 3,
            vocab_rows: vocab_rows.to_vec(),
            ..MemoryPlan::default()
        };
        assert_eq!(gathered_bytes(&of(&[352])), 0, "a rank alone gathers nothing");
        let plan = of(&[96, 160, 97]);
        assert_eq!(gathered_stride(&plan), 192);
        assert_eq!(gathered_bytes(&plan), 4 * 3 * 3 * 192);
    }
}

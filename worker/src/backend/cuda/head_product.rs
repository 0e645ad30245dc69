//! The head on Hopper: a stream product that makes statistics of logits while it has them, and writes
//! only those that something else will read (`cuda/head_product.cu`).
//!
//! Which outputs' logits those are is known to the device alone, so that recordings serve all steps:
//! those with logprobs, with top-k, top-p or min-p at a temperature, with penalties or biases. Other
//! rows of the logits are left as they were. Deliberately absent: several ranks, which gather logits
//! and sample from those; other devices; more outputs than a stream product takes.

use binfer_kernels::fast_params::HeadProductParams;
use binfer_kernels::list;
use binfer_kernels::stream::{STREAM_PARTS_MAX, StreamStore};

use super::CudaBackend;
use super::product::{Product, word};
use super::sample::tiles_per_row;
use super::stream_product::blocks;
use crate::backend::BackendError;

impl CudaBackend {
    /// Enqueues the head's product, whose first row is that of `first_token`; with statistics, if a
    /// kernel makes them.
    pub(super) fn multiply_head(
        &mut self,
        product: &Product,
        first_token: usize,
    ) -> Result<(), BackendError> {
        self.step.head_parts = 0;
        let plan = self.stream_plan(product, StreamStore::Head);
        let plan = plan.filter(|plan| plan.blocks <= STREAM_PARTS_MAX && !self.ranks.are_several());
        let Some(plan) = plan else { return self.multiply(product) };
        let Some(kernel) = list::HEAD[plan.kernel] else { return self.multiply(product) };
        self.begin_product(product);
        let vocab = word(self.step.plan.vocab);
        let params = HeadProductParams {
            product: self.stream_params(product, StreamStore::Head, &plan)?,
            step: self.memory.at.tables,
            tiles: self.memory.at.tiles,
            tiles_per_row: tiles_per_row(self.step.plan.vocab),
            vocab,
            first_token: word(first_token),
        };
        self.device.launch_blocks(kernel, blocks(&plan), &params)?;
        self.step.head_parts = plan.blocks;
        Ok(())
    }
}

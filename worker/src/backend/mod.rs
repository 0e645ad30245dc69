//! What a device must do: the operations that the decoder loop calls.
//!
//! Operations are as large as the largest fusion that we want (`linear_out` is product, bias, sum
//! over ranks and residual); a backend may split one, never join two. Arguments are plain structs
//! of handles ([`args`]), so models are not generic and no backend type spreads. Deliberately
//! absent: primitive operations such as "add" or "reshape".

pub mod adjust;
pub mod args;
pub mod check;
pub mod check_batch;
pub mod cpu;
pub mod cuda;
mod memory_plan;
pub mod record;
pub mod rope;
#[cfg(test)]
mod tests;
pub mod timed;

use std::sync::Arc;

use binfer_proto::{Logprob, Mask, Token};
use binfer_shard::{Checkpoint, LocalTensor};

use crate::batch::Batch;
use args::{AttendArgs, EmbedArgs, HeadArgs, LinearOutArgs, NormLinearArgs, SampleArgs, Tensor};
pub use memory_plan::{KvHeadsPlan, KvLayerPlan, MemoryPlan};

/// A weight that the backend holds; made by [`Backend::load`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight(pub u32);

/// Why an operation could not run.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// An argument breaks the operation's contract: a bug of ours, never a client's.
    #[error("{operation}: {cause}")]
    Args {
        /// The operation.
        operation: &'static str,
        /// What is wrong.
        cause: String,
    },
    /// The device lacks what the model needs.
    #[error("{operation}: this device has no kernel for {what}")]
    NoKernel {
        /// The operation.
        operation: &'static str,
        /// What there is no kernel for.
        what: String,
    },
    /// The collective was given up because a peer is gone or the supervisor said so.
    #[error("{operation}: collective aborted")]
    Aborted {
        /// The operation.
        operation: &'static str,
    },
    /// A device or its driver refused a call.
    #[error("{call}: {cause}")]
    Device {
        /// The driver's name of it.
        call: &'static str,
        /// What it said.
        cause: String,
    },
    /// A weight could not be read.
    #[error(transparent)]
    Load(Box<binfer_shard::Error>),
    /// The host refused a resource.
    #[error("{operation}: {source}")]
    Io {
        /// The operation.
        operation: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl From<binfer_shard::Error> for BackendError {
    fn from(error: binfer_shard::Error) -> Self {
        Self::Load(Box::new(error))
    }
}

/// What one sampled row came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// The token; meaningless where `finite` is false.
    pub token: Token,
    /// Whether every logit of the row was a number.
    pub finite: bool,
}

/// A step's outcome, in the order of the batch's outputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepOutput {
    /// One per output row.
    pub sampled: Vec<Sampled>,
    /// Of all finite rows that want some, one after the other, see `BatchOutput::logprobs`.
    pub logprobs: Vec<Logprob>,
    /// Hash over hidden states and tokens of the output rows: equal on all ranks, or something broke.
    pub digest: u64,
    /// The times that it noted, in nanoseconds of the device's clock: when it began, at each
    /// [`Backend::stamp`], and when it ended. None unless they were planned.
    pub stamps_ns: Vec<u64>,
}

/// What a device was measured to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// Memory traffic of a large copy, read and written.
    pub bytes_per_s: f64,
    /// Operations of a large product in the device's type; a multiply-add is two.
    pub flop_per_s: f64,
    /// Rows and columns of its matrices.
    pub product_side: usize,
}

/// How a step's operations reach the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepMode {
    /// The caller calls them one by one.
    Eager,
    /// The device does all of them, out of a CUDA graph.
    Graph,
}

/// A step that was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Gives up the collective that the backend waits in, from any thread: it returns
/// [`BackendError::Aborted`].
pub type Abort = Box<dyn Fn() + Send>;

/// A device. One thread calls it, in the order of steps.
pub trait Backend: Send {
    /// Reads tensors and keeps each in the layout that the kernels want; their handles, in their
    /// order. `done` hears of bytes read so far.
    fn load(
        &mut self,
        source: &Checkpoint,
        tensors: &[LocalTensor],
        done: &mut dyn FnMut(u64),
    ) -> Result<Vec<Weight>, BackendError>;
    /// The same without a checkpoint, for measurements: random elements, or ones where a tensor is
    /// the scale of a norm.
    fn invent(
        &mut self,
        tensors: &[LocalTensor],
        done: &mut dyn FnMut(u64),
    ) -> Result<Vec<Weight>, BackendError>;
    /// Bytes of a weight as the device holds it; nothing where it holds what it was given.
    fn weight_bytes(&self, _weight: Weight) -> Option<u64> {
        None
    }
    /// Makes a new communicator for `world` ranks; rank 0 alone, its id goes to all through the
    /// coordinator.
    fn comm_id(&mut self, world: usize) -> Result<Vec<u8>, BackendError>;
    /// Joins the communicator that `id` names. Not called when the world is one rank.
    fn join(&mut self, id: &[u8], rank: usize, world: usize) -> Result<Abort, BackendError>;
    /// Bytes that the cache may take on this device, the rest of `plan` and what is loaded set
    /// aside; nothing where the device does not know better than the coordinator.
    fn kv_bytes_max(&self, _plan: &MemoryPlan) -> Result<Option<u64>, BackendError> {
        Ok(None)
    }
    /// How the cache lies in memory: ranks that differ in it cannot share blocks.
    fn kv_layout(&self) -> &'static str;
    /// Takes all memory for steps. Called once, after loading.
    fn allocate(&mut self, plan: &MemoryPlan) -> Result<(), BackendError>;

    /// Begins a step with these inputs. At most two steps are under way at a time.
    fn upload(&mut self, batch: Arc<Batch>) -> Result<StepMode, BackendError>;
    /// Rows of the embedding table, summed over ranks that each hold a part of the vocabulary.
    fn embed(&mut self, args: &EmbedArgs) -> Result<(), BackendError>;
    /// RMSNorm, product, bias, gated activation.
    fn norm_linear(&mut self, args: &NormLinearArgs) -> Result<(), BackendError>;
    /// Norms of heads, rotary embedding, cache write, attention over the cache.
    fn attend(&mut self, args: &AttendArgs) -> Result<(), BackendError>;
    /// Product, bias, sum over ranks, residual: `out = residual + sum over ranks`.
    fn linear_out(&mut self, args: &LinearOutArgs) -> Result<(), BackendError>;
    /// RMSNorm and product for the batch's output rows, gathered over ranks.
    fn head(&mut self, args: &HeadArgs) -> Result<(), BackendError>;
    /// Takes the token masks of the step under way, where its batch says `masked`: by rising output, those
    /// without one are unrestricted. Between `head` and `sample`; where the device does all
    /// operations by itself, before `commit`, and it samples once it has them.
    fn masks(&mut self, masks: Vec<Mask>) -> Result<(), BackendError>;
    /// Samples one token per output row and remembers it as its slot's last.
    fn sample(&mut self, args: &SampleArgs) -> Result<(), BackendError>;

    /// Ends the step uploaded last: all of it is enqueued.
    fn commit(&mut self) -> Result<Ticket, BackendError>;
    /// Whether the device is done with a committed step.
    fn is_done(&mut self, ticket: Ticket) -> Result<bool, BackendError>;
    /// Waits for a committed step and reads its outcome. Steps are collected in order.
    fn collect(&mut self, ticket: Ticket) -> Result<StepOutput, BackendError>;

    /// Which numbers of decode rows are worth a CUDA graph; none where there is nothing to gain.
    fn graph_buckets(&self) -> Vec<usize> {
        Vec::new()
    }
    /// What follows, up to [`Self::end_capture`], is captured instead of run: the operations of a
    /// step of so many decode rows, whose batch this returns.
    fn begin_capture(&mut self, rows: usize) -> Result<Arc<Batch>, BackendError> {
        let cause = format!("a step of {rows} rows: this device has no graphs");
        Err(BackendError::Args { operation: "capture", cause })
    }
    /// Keeps the graph for steps of its shape.
    fn end_capture(&mut self) -> Result<(), BackendError> {
        Ok(())
    }
    /// A step worth running before the first one; none where there is nothing to gain.
    fn warmup(&self) -> Option<Batch> {
        None
    }
    /// Notes the time at which all that was enqueued before is over, as the step's next stamp.
    fn stamp(&mut self) -> Result<(), BackendError> {
        Ok(())
    }
    /// Names of kernels that were enqueued since the last call; empty unless stamps were planned.
    fn launched(&mut self) -> Vec<&'static str> {
        Vec::new()
    }
    /// Measures what the device can do; nothing where nobody has written down how.
    fn peaks(&mut self) -> Result<Option<Peaks>, BackendError> {
        Ok(None)
    }
    /// What was measured, for people; asked for once, after the last step.
    fn report(&mut self) -> String {
        String::new()
    }
    /// What is slower than it need be, for people; after graphs were captured.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
    /// What was taken for what, in bytes; for people.
    fn ledger(&self) -> Vec<(String, u64)> {
        Vec::new()
    }
    /// Copies activations to the host: for tests and traces, not for steps.
    fn read(&mut self, x: Tensor) -> Result<Vec<f32>, BackendError>;
}

//! What a device must do: the operations that the decoder loop calls.
//!
//! Operations are as large as the largest fusion that we want (`linear_out` is product, bias, sum
//! over ranks and residual); a backend may split one, never join two. Arguments are plain structs
//! of handles ([`args`]), so models are not generic and no backend type spreads. Deliberately
//! absent: primitive operations such as "add" or "reshape".

pub mod args;
pub mod check;
pub mod cpu;
pub mod record;

use std::sync::Arc;

use binfer_proto::Token;
use binfer_shard::LocalTensor;

use crate::batch::Batch;
use args::{AttendArgs, EmbedArgs, HeadArgs, LinearOutArgs, NormLinearArgs, SampleArgs, Tensor};

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
    /// The collective was given up because a peer is gone or the supervisor said so.
    #[error("{operation}: collective aborted")]
    Aborted {
        /// The operation.
        operation: &'static str,
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

/// All memory that a backend takes before it is ready; nothing is allocated for steps later.
#[derive(Clone, Debug)]
pub struct MemoryPlan {
    /// Elements of the activation arena.
    pub arena: usize,
    /// Slots with a last sampled token.
    pub slots_max: usize,
    /// Rows that one step may sample.
    pub outputs_max: usize,
    /// Width of gathered logits.
    pub vocab: usize,
    /// Per layer: shape of its K and V cache.
    pub kv: Vec<KvLayerPlan>,
}

/// Shape of one layer's cache: K and V each hold `blocks * kv_heads * block_tokens * head_dim`
/// elements; in which order is the backend's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayerPlan {
    /// Blocks of the layer's KV group.
    pub blocks: usize,
    /// KV heads on this rank.
    pub kv_heads: usize,
    /// Positions in a block.
    pub block_tokens: usize,
    /// Elements of a head.
    pub head_dim: usize,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepOutput {
    /// One per output row.
    pub sampled: Vec<Sampled>,
    /// Hash over hidden states and tokens of the output rows: equal on all ranks, or something broke.
    pub digest: u64,
}

/// Gives up the collective that the backend waits in, from any thread: it returns
/// [`BackendError::Aborted`].
pub type Abort = Box<dyn Fn() + Send>;

/// A device. One thread calls it, in the order of steps.
pub trait Backend: Send {
    /// Keeps a tensor, given the bytes of its parts as the checkpoint has them, in the layout that
    /// the kernels want.
    fn load(&mut self, tensor: &LocalTensor, parts: &[Vec<u8>]) -> Result<Weight, BackendError>;
    /// Makes a new communicator for `world` ranks; rank 0 alone, its id goes to all through the
    /// coordinator.
    fn comm_id(&mut self, world: usize) -> Result<Vec<u8>, BackendError>;
    /// Joins the communicator that `id` names. Not called when the world is one rank.
    fn join(&mut self, id: &[u8], rank: usize, world: usize) -> Result<Abort, BackendError>;
    /// Takes all memory for steps. Called once, after loading.
    fn allocate(&mut self, plan: &MemoryPlan) -> Result<(), BackendError>;

    /// Makes `batch` the inputs of the operations that follow.
    fn upload(&mut self, batch: Arc<Batch>) -> Result<(), BackendError>;
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
    /// Draws one token per output row and remembers it as its slot's last.
    fn sample(&mut self, args: &SampleArgs) -> Result<(), BackendError>;

    /// Sum of `x` over ranks, in rank order on every rank.
    fn all_reduce(&mut self, x: Tensor) -> Result<(), BackendError>;
    /// Waits for the step uploaded last and reads its outcome.
    fn collect(&mut self) -> Result<StepOutput, BackendError>;
    /// Copies activations to the host: for tests and traces, not for steps.
    fn read(&mut self, x: Tensor) -> Result<Vec<f32>, BackendError>;
}

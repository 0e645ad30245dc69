//! A device from opening to the last step: what the handshake calls, and what it learns.

use binfer_shard::{Checkpoint, LocalTensor};

use super::args::Weight;
use super::error::BackendError;
use super::graph_capture::GraphCapture;
use super::memory_layout::MemoryLayout;
use super::operations::Backend;

/// What a device was measured to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// Memory traffic of a large copy, read and written.
    pub bytes_per_s: f64,
    /// Operations of a large gemm in the device's type. A multiply-add is two.
    pub flop_per_s: f64,
    /// Rows and columns of that gemm's matrices.
    pub gemm_side: usize,
}

/// Gives up the collective that the device waits in, from any thread. The operation returns
/// [`BackendError::Aborted`].
pub type Abort = Box<dyn Fn() + Send>;

/// The device of one rank.
///
/// It is opened, loaded, joined to the other ranks and allocated once each, in this order. Then it
/// runs steps.
pub trait RankDevice: Backend + DeviceClock {
    /// Measures what the device can do; `None` where nobody has written down how. It takes memory
    /// for that and gives it back, so it comes before weights.
    fn peaks(&mut self) -> Result<Option<Peaks>, BackendError>;
    /// Reads tensors, keeps each in the layout that the kernels want, and returns their handles in
    /// the order of the tensors. `done` is told the bytes read so far.
    fn load(
        &mut self,
        checkpoint: &Checkpoint,
        tensors: &[LocalTensor],
        done: &mut dyn FnMut(u64),
    ) -> Result<Vec<Weight>, BackendError>;
    /// Makes tensors up in place of a checkpoint, for measurements: random elements, or ones where
    /// a tensor is the scale of a norm.
    fn random_weights(
        &mut self,
        tensors: &[LocalTensor],
        done: &mut dyn FnMut(u64),
    ) -> Result<Vec<Weight>, BackendError>;
    /// Bytes of a weight on the device; `None` where the device holds what it was given.
    fn weight_bytes(&self, weight: Weight) -> Option<u64>;
    /// Makes a communicator for `world` ranks. Rank 0 alone does, and its id goes to all ranks
    /// through the coordinator.
    fn comm_id(&mut self, world: usize) -> Result<Vec<u8>, BackendError>;
    /// Joins the communicator that `id` names. A rank alone does not join.
    fn join(&mut self, id: &[u8], rank: usize, world: usize) -> Result<Abort, BackendError>;
    /// Bytes that the KV cache may take beside the rest of `layout` and what is loaded; `None`
    /// where the device does not know better than the coordinator.
    fn kv_bytes_max(&self, layout: &MemoryLayout) -> Result<Option<u64>, BackendError>;
    /// How the cache lies in memory. Ranks that differ in it cannot share blocks.
    fn kv_layout(&self) -> &'static str;
    /// Takes all memory for steps. Nothing is taken later.
    fn allocate(&mut self, layout: &MemoryLayout) -> Result<(), BackendError>;
    /// The device as one that captures CUDA graphs; `None` where it has none.
    fn graphs(&mut self) -> Option<&mut dyn GraphCapture>;
    /// What memory was taken for, in bytes; for people.
    fn ledger(&self) -> Vec<(String, u64)>;
    /// What is slower than it need be, for people. Known once graphs were captured.
    fn notes(&self) -> Vec<String>;
}

/// The clock of a device: what measuring of operations (`timed/`) calls.
pub trait DeviceClock {
    /// Notes the time at which all that was enqueued before is over, as the step's next stamp.
    fn stamp(&mut self) -> Result<(), BackendError>;
    /// Names of kernels that were enqueued since the last call; empty unless stamps were planned.
    fn launched(&mut self) -> Vec<&'static str>;
}

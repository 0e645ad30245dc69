//! What a fleet is told once, before its first worker.

use std::path::PathBuf;
use std::time::Duration;

use binfer_proto::{Epoch, GroupId};

use crate::timing::Timing;

/// Everything that a fleet is told, once.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// The replica.
    pub group: GroupId,
    /// Its life.
    pub epoch: Epoch,
    /// Ranks.
    pub world: usize,
    /// Where workers come from.
    pub spawn: Spawn,
    /// A rank that stands still for this long counts as lost.
    pub step_deadline: Duration,
    /// Workers must have dialled in by then.
    pub attach_deadline: Duration,
    /// What every rank loads.
    pub load: LoadConfig,
}

/// Where workers come from.
#[derive(Clone, Debug)]
pub enum Spawn {
    /// One child process a rank: this program with `worker` and its arguments.
    Processes {
        /// The program, usually `/proc/self/exe`.
        program: PathBuf,
    },
    /// Somebody else starts them, with the rendezvous' address and instance token.
    Elsewhere,
}

/// What a rank loads and how much it may take.
#[derive(Clone, Debug)]
pub struct LoadConfig {
    /// The checkpoint, readable by every worker under this path.
    pub model: PathBuf,
    /// Digest of its header as the coordinator read it.
    pub model_digest: u64,
    /// "f32", "bf16" or "f16": how the KV cache is stored.
    pub dtype: String,
    /// Compute threads of a rank.
    pub threads: u32,
    /// Sequences at once.
    pub slots_max: u32,
    /// Input tokens of a step.
    pub tokens_per_step_max: u32,
    /// Positions of a sequence.
    pub context_max: u32,
    /// Bytes of KV cache that a rank may take; on a GPU 0 is what fits.
    pub kv_bytes_max: u64,
    /// Weights are random and nothing is read but `config.json`: for measurements.
    pub random_weights: bool,
    /// The GPUs; the CPU where absent.
    pub cuda: Option<CudaConfig>,
    /// What a rank says of the time that operations take.
    pub timing: Timing,
}

/// How ranks use their GPUs.
#[derive(Clone, Debug)]
pub struct CudaConfig {
    /// The device's number, by rank.
    pub ordinals: Vec<u32>,
    /// All memory of the smallest.
    pub bytes: u64,
    /// Kernels to run; empty: those that suit the device best.
    pub kernels: &'static str,
    /// Decode steps run out of graphs.
    pub graphs: bool,
    /// Share of a device's memory that a rank may take.
    pub memory_utilization: f32,
    /// Folders to look for libraries in, before the system's places.
    pub libraries: Vec<PathBuf>,
    /// Some ranks have the same device.
    pub is_shared: bool,
}

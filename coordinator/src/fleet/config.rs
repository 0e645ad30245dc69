//! The settings of a fleet, which hold for its whole life.

use std::path::PathBuf;
use std::time::Duration;

use binfer_proto::{Epoch, KvDtype, ReplicaId};
use binfer_shard::fit::KvBudget;

use crate::timing::Timing;

/// The settings of a fleet.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// The replica that the fleet runs.
    pub replica: ReplicaId,
    /// The first epoch.
    pub epoch: Epoch,
    /// The number of ranks.
    pub world: usize,
    /// How workers are started.
    pub spawn: Spawn,
    /// A rank that makes no progress for this long is lost.
    pub step_deadline: Duration,
    /// How long workers may take to dial in.
    pub attach_deadline: Duration,
    /// What the ranks load.
    pub load: LoadConfig,
}

/// How workers are started.
#[derive(Clone, Debug)]
pub enum Spawn {
    /// One child process per rank runs this program with the argument `worker`.
    Processes {
        /// The program, usually `/proc/self/exe`.
        program: PathBuf,
    },
    /// Another process starts them, with the address and the secret of the rendezvous.
    Elsewhere,
}

/// What a rank loads and how much it may take.
#[derive(Clone, Debug)]
pub struct LoadConfig {
    /// The path of the checkpoint, which every worker can read.
    pub model: PathBuf,
    /// The digest of its header as the coordinator read it.
    pub model_digest: u64,
    /// How the KV cache is stored. On a GPU weights and arithmetic have the same type.
    pub kv_dtype: KvDtype,
    /// The compute threads of a rank.
    pub threads: u32,
    /// The sequences that run at once.
    pub slots_max: u32,
    /// The input tokens of a step.
    pub tokens_per_step_max: u32,
    /// The positions of a sequence.
    pub context_max: u32,
    /// What the KV cache of a rank may take.
    pub kv_budget: KvBudget,
    /// Weights are random, for measurements; only `config.json` is read.
    pub random_weights: bool,
    /// The GPUs; `None` is the CPU.
    pub cuda: Option<CudaConfig>,
    /// What a rank tells of the time that operations take.
    pub timing: Timing,
}

/// How ranks use their GPUs.
#[derive(Clone, Debug)]
pub struct CudaConfig {
    /// The driver's number of each rank's device.
    pub ordinals: Vec<u32>,
    /// The whole memory of the smallest device.
    pub bytes: u64,
    /// The kernel image to run; empty is the one that suits the device best.
    pub kernels: &'static str,
    /// Decode steps run out of CUDA graphs.
    pub graphs: bool,
    /// The share of a device's memory that a rank may take.
    pub memory_utilization: f32,
    /// The folders that are searched for libraries before the system's own.
    pub libraries: Vec<PathBuf>,
    /// Several ranks share a device.
    pub is_shared: bool,
}

//! The settings with which a model is served: flags in, [`ModelOptions`] out, checked and
//! immutable.

use std::path::PathBuf;
use std::time::Duration;

use binfer_proto::KvDtype;
use binfer_shard::fit::{self, FitLimits, HostMemory, KvBudget, Memory};
use binfer_shard::{Checkpoint, DType, layouts};

use crate::config::{self, ConfigError};
use crate::device::DeviceRequest;
use crate::fleet::CudaConfig;
use crate::memory::{HostBudget, KernelFiles};
use crate::model_args::{Dtype, ModelArgs};
use crate::parallel::{SHARDS_REASON, TensorParallel};
use crate::report::Verbosity;
use crate::timing::Timing;

/// The checked settings.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// The file or folder of the checkpoint.
    pub path: PathBuf,
    /// The name under which clients ask for the model.
    pub name: String,
    /// The number of ranks.
    pub world: usize,
    /// Why there are so many ranks, if `--tp auto` chose them.
    pub tp_reason: Option<String>,
    /// How the KV cache is stored. On a GPU weights and arithmetic have the same type.
    pub kv_dtype: KvDtype,
    /// The compute threads of a rank.
    pub threads: u32,
    /// What the ranks must have memory for.
    pub limits: FitLimits,
    /// The value of `--kv-cache-tokens`.
    pub kv_cache_tokens: Option<u64>,
    /// Whether prompts that begin alike share blocks.
    pub prefix_cache: bool,
    /// The limits of the host's memory, for messages; `None` on a GPU and where none is set.
    pub host_limits: Option<String>,
    /// The GPUs; `None` is the CPU.
    pub cuda: Option<CudaConfig>,
    /// A rank that makes no progress for this long is lost.
    pub step_deadline: Duration,
    /// What workers tell of the time that operations take.
    pub timing: Timing,
    /// How much is written to stderr.
    pub verbosity: Verbosity,
}

impl ModelArgs {
    /// Checks the other flags against the opened model, which clients know by `name`.
    pub fn check(&self, name: String, source: &Checkpoint) -> Result<ModelOptions, ConfigError> {
        let spec = source.spec();
        let context_max = self.max_model_len.unwrap_or(spec.context_max);
        if !(1..=spec.context_limit()).contains(&context_max) {
            return Err(ConfigError(format!(
                "--max-model-len {context_max}: expected 1 to {}, which the model was made for",
                spec.context_limit()
            )));
        }
        let device_request = self.device_request();
        let gpus = device_request.gpus()?;
        let smallest = gpus.iter().map(|gpu| gpu.bytes).min();
        let memory = smallest.map_or(Memory::Host(HostMemory::free(0)), Memory::Devices);
        let limits = self.limits(context_max, memory)?;
        let (world, tp_reason) = match (self.tp, source.shards_world()) {
            (TensorParallel::Auto, Some(world)) => (world, Some(SHARDS_REASON.into())),
            (tp, _) => {
                let gpu_bytes: Vec<u64> = gpus.iter().map(|gpu| gpu.bytes).collect();
                tp.ranks(spec, &limits, &gpu_bytes)?
            }
        };
        self.check_shards(source, world)?;
        let cuda = device_request.choose(&gpus, world, self.tp)?;
        let host = HostBudget::of(&KernelFiles::here(), self.threads_of_rank(world));
        let memory = cuda.as_ref().map(|cuda| Memory::Devices(cuda.bytes));
        let limits = self.limits(context_max, memory.unwrap_or(Memory::Host(host.memory())))?;
        let layouts = layouts(spec, world);
        let layouts = layouts.map_err(|error| ConfigError(format!("--tp {world}: {error}")))?;
        let (element, demand) = (limits.kv_element_bytes, limits.kv_demand());
        // The rank with the most heads decides how many blocks there are.
        let asked = self.kv_cache_tokens.and_then(|tokens| {
            let of_rank = |layout| fit::kv_bytes_for(spec, layout, element, demand, tokens);
            layouts.iter().map(of_rank).max()
        });
        let limits = FitLimits { kv_budget: KvBudget::from(asked), ..limits };
        if cuda.is_none() {
            host.check(spec, world, &limits, self.kv_cache_tokens)?;
        }
        let timing = Timing { profile: self.profile, trace: self.trace.clone() };
        timing.check(world as usize)?;
        Ok(ModelOptions {
            name,
            path: source.path().to_owned(),
            world: world as usize,
            tp_reason,
            kv_dtype: match self.dtype {
                Dtype::Auto if cuda.is_some() && is_f16(source) => KvDtype::F16,
                Dtype::Auto if cuda.is_some() => KvDtype::BF16,
                dtype => dtype.stored(),
            },
            host_limits: host.limits().filter(|_| cuda.is_none()),
            cuda,
            threads: self.threads_of_rank(world),
            limits,
            kv_cache_tokens: self.kv_cache_tokens,
            prefix_cache: !self.no_enable_prefix_caching,
            step_deadline: Duration::from_secs_f32(self.step_deadline),
            timing,
            verbosity: self.verbosity(),
        })
    }

    /// The compute threads of each of `world` ranks.
    fn threads_of_rank(&self, world: u32) -> u32 {
        let cores = u32::try_from(config::cores()).unwrap_or(u32::MAX);
        (self.threads.unwrap_or(cores) / world.max(1)).max(1)
    }

    /// What the flags and the environment ask of devices.
    fn device_request(&self) -> DeviceRequest {
        DeviceRequest {
            device: self.device,
            kernels: self.kernels,
            graphs: !self.no_cuda_graphs,
            memory_utilization: self.gpu_memory_utilization,
            f32_arithmetic: self.dtype == Dtype::F32,
            gpus_shared: config::gpus_are_shared(),
        }
    }

    /// Refuses another rank count than the shards are for, and a second cache of shards.
    fn check_shards(&self, source: &Checkpoint, ranks: u32) -> Result<(), ConfigError> {
        let Some(world) = source.shards_world() else { return Ok(()) };
        let path = source.path().display();
        if world != ranks {
            return Err(ConfigError(format!(
                "--tp {ranks}: {path} holds shards for --tp {world}; use that, or cut the \
                 checkpoint again: binfer shard MODEL -o NEW_DIR --tp {ranks}"
            )));
        }
        if self.shard_cache.is_some() {
            return Err(ConfigError(format!(
                "--shard-cache: {path} holds shards already; leave the flag away"
            )));
        }
        Ok(())
    }

    /// What ranks in `memory` must have room for; the KV cache takes what fits.
    fn limits(&self, context_max: u32, memory: Memory) -> Result<FitLimits, ConfigError> {
        let on_gpu = matches!(memory, Memory::Devices(_));
        let (sequences, tokens) = step_defaults(on_gpu);
        let sequences_max = self.max_num_seqs.unwrap_or(sequences);
        let tokens = self.max_num_batched_tokens.unwrap_or(tokens.max(sequences_max));
        if !(sequences_max..=65_536).contains(&tokens) {
            return Err(ConfigError(format!(
                "--max-num-batched-tokens: expected {sequences_max} (--max-num-seqs) to 65536"
            )));
        }
        Ok(FitLimits {
            memory,
            kv_budget: KvBudget::WhatFits,
            kv_element_bytes: if on_gpu { 2 } else { self.dtype.stored().bytes() },
            context_max,
            sequences_max,
            kv_tokens_max: u64::from(sequences_max) * u64::from(context_max),
            tokens_per_step_max: tokens,
        })
    }
}

/// The defaults of `--max-num-seqs` and `--max-num-batched-tokens`.
pub fn step_defaults(on_gpu: bool) -> (u32, u32) {
    if on_gpu { (256, 8192) } else { (64, 512) }
}

/// Whether all matrices of a folder are f16. The types in a GGUF file are mixed, so it is not.
fn is_f16(source: &Checkpoint) -> bool {
    let parts = source.spec().tensors.iter().flat_map(|tensor| &tensor.parts);
    source.gguf().is_none()
        && parts.filter(|p| p.rows > 1 && p.cols > 1).all(|p| p.dtype == DType::F16)
}

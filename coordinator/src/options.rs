//! How a model is to be served: command line in, [`ModelOptions`] out, checked and immutable.

use std::path::PathBuf;
use std::time::Duration;

use binfer_shard::fit::{self, HostMemory, Limits, Memory};
use binfer_shard::{Checkpoint, DType, layouts};
use clap::{Args, ValueEnum};

use crate::config::{self, ConfigError};
use crate::device::{DeviceChoice, DeviceRequest, KernelImage};
use crate::fleet::CudaConfig;
use crate::memory::{HostBudget, KernelFiles};
use crate::parallel::{SHARDS_REASON, TensorParallel};
use crate::report::Verbosity;
use crate::timing::Timing;

/// Flags of every command that runs a model; none flattened in, which would be lost on `bench`.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// A GGUF file, a Hugging Face folder, an id on the hub (ORG/NAME), or `demo`
    pub model: String,
    /// Branch, tag or commit of an id on the hub [default: main]
    #[arg(long)]
    pub revision: Option<String>,
    /// Ranks that share the model: `auto` is the fewest GPUs that hold it, and 1 on the CPU
    #[arg(long, default_value = "auto", value_name = "N|auto|all")]
    pub tp: TensorParallel,
    /// On a GPU the type of weights, cache and arithmetic, bf16 unless weights are f16; on the CPU
    /// how the KV cache is stored, f32 unless said. Arithmetic is f32 there
    #[arg(long, value_enum, default_value = "auto")]
    pub dtype: Dtype,
    /// Where to run; `auto` is a GPU where there is one that can do what is asked
    #[arg(long, value_enum, default_value = "auto")]
    pub device: DeviceChoice,
    /// CUDA kernels to run, instead of those that suit the GPU best
    #[arg(long, value_enum, value_name = "IMAGE")]
    pub kernels: Option<KernelImage>,
    /// Launch each CUDA kernel by itself, for looking at them
    #[arg(long)]
    pub no_cuda_graphs: bool,
    /// Share of a GPU's memory that a rank may take, whatever other processes use
    #[arg(long, default_value_t = 0.9, value_name = "SHARE")]
    pub gpu_memory_utilization: f32,
    /// Compute threads over all ranks [default: one a core]
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
    /// Positions of a sequence, prompt and answer [default: what the model was trained for]; with
    /// dynamic rope scaling more may be given, and changes what short sequences give
    #[arg(long, value_name = "TOKENS")]
    pub max_model_len: Option<u32>,
    /// Sequences that run at once [default: 64 on the CPU, 256 on a GPU]
    #[arg(long, value_name = "N")]
    pub max_num_seqs: Option<u32>,
    /// Input tokens of one step [default: 512 on the CPU, 8192 on a GPU]
    #[arg(long, value_name = "TOKENS")]
    pub max_num_batched_tokens: Option<u32>,
    /// Positions that the KV cache holds [default: a quarter of the free memory on the CPU, what
    /// --gpu-memory-utilization leaves on a GPU; at most what --max-num-seqs need]
    #[arg(long, value_name = "TOKENS")]
    pub kv_cache_tokens: Option<u64>,
    /// Keep the model's shards in this folder, and load from them when they are there
    #[arg(long, value_name = "DIR")]
    pub shard_cache: Option<PathBuf>,
    /// Ask all weights, not the file system, whether the shards in --shard-cache are theirs
    #[arg(long, requires = "shard_cache")]
    pub shard_cache_verify: bool,
    /// A rank that stands still for so long counts as lost
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub step_deadline: f32,
    /// At the end a table on stderr: operations, their time, their share of what the device can do.
    /// Steps take a little longer
    #[arg(long)]
    pub profile: bool,
    /// Write the time of every operation to FILE, for ui.perfetto.dev or about:tracing; of several
    /// ranks to FILE.rank-0 and so on
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Nothing on stderr but errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Time of each phase of the start on stderr
    #[arg(short, long)]
    pub verbose: bool,
}

/// `--dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// What suits the device.
    Auto,
    /// 32-bit float.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
}

impl Dtype {
    /// The type that the KV cache has on the CPU: "f32", "bf16" or "f16".
    pub fn stored(self) -> &'static str {
        match self {
            Self::Auto | Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// Bytes of an element of it.
    pub fn element_bytes(self) -> u64 {
        if self.stored() == "f32" { 4 } else { 2 }
    }
}

/// Checked settings.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// The checkpoint's file or folder.
    pub path: PathBuf,
    /// Name under which clients ask for it.
    pub name: String,
    /// Ranks.
    pub world: usize,
    /// Why so many, where `--tp auto` chose.
    pub tp_reason: Option<String>,
    /// "f32", "bf16" or "f16".
    pub dtype: &'static str,
    /// Compute threads of a rank.
    pub threads: u32,
    /// What the ranks are to hold room for.
    pub limits: Limits,
    /// Positions that the KV cache is to hold, where somebody asked for a number.
    pub kv_cache_tokens: Option<u64>,
    /// Limits of the host's memory, for people; on the CPU, where any are set.
    pub host_limits: Option<String>,
    /// The GPUs; the CPU where absent.
    pub cuda: Option<CudaConfig>,
    /// A rank that stands still for so long counts as lost.
    pub step_deadline: Duration,
    /// What workers say of the time that operations take.
    pub timing: Timing,
    /// How much to say on stderr.
    pub verbosity: Verbosity,
}

impl ModelArgs {
    /// Checks everything that needs no model.
    pub fn check_alone(&self) -> Result<(), ConfigError> {
        if !(self.gpu_memory_utilization > 0.0 && self.gpu_memory_utilization <= 1.0) {
            return Err(ConfigError("--gpu-memory-utilization: expected 0 to 1".into()));
        }
        if !(self.step_deadline >= 0.5 && self.step_deadline <= 3600.0) {
            return Err(ConfigError("--step-deadline: expected 0.5 to 3600 seconds".into()));
        }
        if self.max_num_seqs.is_some_and(|number| !(1..=4096).contains(&number)) {
            return Err(ConfigError("--max-num-seqs: expected 1 to 4096".into()));
        }
        if self.kv_cache_tokens == Some(0) {
            return Err(ConfigError("--kv-cache-tokens: expected 1 or more".into()));
        }
        if self.threads.is_some_and(|threads| !(1..=1024).contains(&threads)) {
            return Err(ConfigError("--threads: expected 1 to 1024".into()));
        }
        Ok(())
    }

    /// Checks the rest against the opened model, which clients will know by `name`.
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
        let limits = self.limits(context_max, !gpus.is_empty())?;
        let (world, tp_reason) = match (self.tp, source.shards_world()) {
            (TensorParallel::Auto, Some(world)) => (world, Some(SHARDS_REASON.into())),
            (tp, _) => {
                let gpu_bytes: Vec<u64> = gpus.iter().map(|gpu| gpu.bytes).collect();
                tp.ranks(spec, &limits, &gpu_bytes)?
            }
        };
        self.check_shards(source, world)?;
        let cuda = device_request.choose(&gpus, world, self.tp)?;
        let limits = self.limits(context_max, cuda.is_some())?;
        let layouts = layouts(spec, world);
        let layouts = layouts.map_err(|error| ConfigError(format!("--tp {world}: {error}")))?;
        let element = limits.kv_element_bytes;
        let positions = layouts.iter().map(|layout| fit::kv_position_bytes(spec, layout, element));
        // The rank with most heads decides how many blocks there are.
        let position_bytes = positions.max().unwrap_or(0);
        let asked = self.kv_cache_tokens.map(|tokens| tokens.saturating_mul(position_bytes));
        let host = HostBudget::of(&KernelFiles::here(), self.threads_of_rank(world));
        let memory = match &cuda {
            None => Memory::Host(host.memory(asked)),
            Some(cuda) if asked.is_none() => Memory::Devices(cuda.bytes),
            Some(_) => Memory::Host(HostMemory { kv_bytes: asked, ..HostMemory::free(0) }),
        };
        let limits = Limits { memory, ..limits };
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
            dtype: match self.dtype {
                Dtype::Auto if cuda.is_some() && is_f16(source) => "f16",
                Dtype::Auto if cuda.is_some() => "bf16",
                dtype => dtype.stored(),
            },
            host_limits: host.limits().filter(|_| cuda.is_none()),
            cuda,
            threads: self.threads_of_rank(world),
            limits,
            kv_cache_tokens: self.kv_cache_tokens,
            step_deadline: Duration::from_secs_f32(self.step_deadline),
            timing,
            verbosity: self.verbosity(),
        })
    }

    /// Compute threads of each of `world` ranks.
    fn threads_of_rank(&self, world: u32) -> u32 {
        let cores = u32::try_from(config::cores()).unwrap_or(u32::MAX);
        (self.threads.unwrap_or(cores) / world.max(1)).max(1)
    }

    /// What was said of devices.
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

    /// Shards are for one number of ranks, and are cached once.
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

    /// What the ranks of a cluster on this host are to hold room for.
    fn limits(&self, context_max: u32, on_gpu: bool) -> Result<Limits, ConfigError> {
        let (sequences, tokens) = step_defaults(on_gpu);
        let sequences_max = self.max_num_seqs.unwrap_or(sequences);
        let tokens = self.max_num_batched_tokens.unwrap_or(tokens.max(sequences_max));
        if !(sequences_max..=65_536).contains(&tokens) {
            return Err(ConfigError(format!(
                "--max-num-batched-tokens: expected {sequences_max} (--max-num-seqs) to 65536"
            )));
        }
        Ok(Limits {
            memory: Memory::Host(HostMemory::free(0)),
            kv_element_bytes: if on_gpu { 2 } else { self.dtype.element_bytes() },
            context_max,
            sequences_max,
            kv_tokens_max: u64::from(sequences_max) * u64::from(context_max),
            tokens_per_step_max: tokens,
        })
    }

    /// How much to say.
    pub fn verbosity(&self) -> Verbosity {
        Verbosity::of(self.quiet, self.verbose)
    }
}

/// Sequences that run at once and input tokens of a step, unless flags say otherwise.
pub fn step_defaults(on_gpu: bool) -> (u32, u32) {
    if on_gpu { (256, 8192) } else { (64, 512) }
}

/// Whether the matrices of a folder are of half precision; GGUF files have all sorts.
fn is_f16(source: &Checkpoint) -> bool {
    let parts = source.spec().tensors.iter().flat_map(|tensor| &tensor.parts);
    source.gguf().is_none()
        && parts.filter(|p| p.rows > 1 && p.cols > 1).all(|p| p.dtype == DType::F16)
}

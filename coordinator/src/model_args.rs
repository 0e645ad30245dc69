//! The flags of every command that runs a model.

use std::path::PathBuf;

use binfer_proto::KvDtype;
use clap::{Args, ValueEnum};

use crate::config::ConfigError;
use crate::device::{DeviceChoice, KernelImage};
use crate::parallel::TensorParallel;
use crate::report::Verbosity;

/// The flags of every command that runs a model. None is flattened in, since `bench` would lose it.
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
    /// Nothing that is not so without it: ranks divide experts among them, each whole on one
    #[arg(long)]
    pub enable_expert_parallel: bool,
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
    /// Compute every prompt whole, though it begins like one before
    #[arg(long)]
    pub no_enable_prefix_caching: bool,
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

/// The values of `--dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// The type that suits the device.
    Auto,
    /// 32-bit floating point.
    F32,
    /// The bfloat16 format.
    Bf16,
    /// IEEE 754 half precision.
    F16,
}

impl Dtype {
    /// The type of the KV cache on the CPU.
    pub fn stored(self) -> KvDtype {
        match self {
            Self::Auto | Self::F32 => KvDtype::F32,
            Self::Bf16 => KvDtype::BF16,
            Self::F16 => KvDtype::F16,
        }
    }
}

impl ModelArgs {
    /// Checks the flags that need no model.
    ///
    /// # Errors
    /// The first flag that is out of range.
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

    /// How much is written to stderr.
    pub fn verbosity(&self) -> Verbosity {
        Verbosity::of(self.quiet, self.verbose)
    }
}

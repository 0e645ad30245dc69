//! How a model is to be served: command line in, [`Options`] out, checked and immutable.

use std::path::PathBuf;
use std::time::Duration;

use binfer_shard::{Source, layouts};
use clap::{Args, ValueEnum};

use crate::config::{self, ConfigError};

/// Flags of every command that runs a model.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// A GGUF file, a Hugging Face folder, an id on the hub (ORG/NAME), or `demo`
    pub model: String,
    /// Branch, tag or commit of an id on the hub [default: main]
    #[arg(long)]
    pub revision: Option<String>,
    /// Ranks that share the model: a number, or `auto`
    #[arg(long, default_value = "auto", value_name = "N|auto")]
    pub tp: TensorParallel,
    /// How the KV cache is stored; `auto` is f32 on the CPU. Arithmetic is f32 there
    #[arg(long, value_enum, default_value = "auto")]
    pub dtype: Dtype,
    /// Where to run; `auto` is the CPU in this version
    #[arg(long, value_enum, default_value = "auto")]
    pub device: Device,
    /// Compute threads over all ranks [default: one a core]
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
    /// Positions of a sequence, prompt and answer [default: what the model was trained for]; with
    /// dynamic rope scaling more may be given, and changes what short sequences give
    #[arg(long, value_name = "TOKENS")]
    pub max_model_len: Option<u32>,
    /// Sequences that run at once
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub max_num_seqs: u32,
    /// Input tokens of one step
    #[arg(long, default_value_t = 512, value_name = "TOKENS")]
    pub max_num_batched_tokens: u32,
    /// Positions that the KV cache holds [default: a quarter of the free memory, at most what
    /// --max-num-seqs need]
    #[arg(long, value_name = "TOKENS")]
    pub kv_cache_tokens: Option<u64>,
    /// Keep the model's shards in this folder, and load from them when they are there
    #[arg(long, value_name = "DIR")]
    pub shard_cache: Option<PathBuf>,
    /// A rank that stands still for so long counts as lost
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub step_deadline: f32,
    /// Nothing on stderr but errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Time of each phase of the start on stderr
    #[arg(short, long)]
    pub verbose: bool,
}

/// `--tp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorParallel {
    /// What fits: one rank on the CPU.
    Auto,
    /// So many ranks.
    Ranks(usize),
}

impl std::str::FromStr for TensorParallel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            number => match number.parse() {
                Ok(ranks @ 1..=64) => Ok(Self::Ranks(ranks)),
                _ => Err("expected a number from 1 to 64, or `auto`".into()),
            },
        }
    }
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

/// `--device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// The best that is there.
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU; refused in this version.
    Cuda,
}

/// Checked settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// The checkpoint's file or folder.
    pub path: PathBuf,
    /// Name under which clients ask for it.
    pub name: String,
    /// Ranks.
    pub world: usize,
    /// "f32", "bf16" or "f16".
    pub dtype: &'static str,
    /// Compute threads of a rank.
    pub threads: u32,
    /// Positions of a sequence.
    pub context_max: u32,
    /// Sequences at once.
    pub slots_max: u32,
    /// Input tokens of a step.
    pub tokens_per_step_max: u32,
    /// Bytes of KV cache on one rank.
    pub kv_bytes_max: u64,
    /// A rank that stands still for so long counts as lost.
    pub step_deadline: Duration,
    /// How much to say on stderr.
    pub verbosity: Verbosity,
}

/// How much to say on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors.
    Quiet,
    /// Progress, and a line when ready.
    Normal,
    /// Each phase of the start.
    Verbose,
}

impl Verbosity {
    /// What `--quiet` and `--verbose` leave to say.
    pub fn of(quiet: bool, verbose: bool) -> Self {
        match (quiet, verbose) {
            (true, _) => Self::Quiet,
            (false, true) => Self::Verbose,
            (false, false) => Self::Normal,
        }
    }
}

impl ModelArgs {
    /// Checks everything that needs no model.
    pub fn check_alone(&self) -> Result<(), ConfigError> {
        if self.device == Device::Cuda {
            return Err(ConfigError(
                "--device cuda: this version has no CUDA backend; use --device cpu".into(),
            ));
        }
        if !(self.step_deadline >= 0.5 && self.step_deadline <= 3600.0) {
            return Err(ConfigError("--step-deadline: expected 0.5 to 3600 seconds".into()));
        }
        if !(1..=4096).contains(&self.max_num_seqs) {
            return Err(ConfigError("--max-num-seqs: expected 1 to 4096".into()));
        }
        if self.max_num_batched_tokens < self.max_num_seqs || self.max_num_batched_tokens > 65_536 {
            return Err(ConfigError(format!(
                "--max-num-batched-tokens: expected {} (--max-num-seqs) to 65536",
                self.max_num_seqs
            )));
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
    pub fn check(&self, name: String, source: &Source) -> Result<Options, ConfigError> {
        let spec = source.spec();
        let world = match self.tp {
            TensorParallel::Auto => source.shards_world().map_or(1, |world| world as usize),
            TensorParallel::Ranks(ranks) => ranks,
        };
        let ranks = u32::try_from(world).unwrap_or(u32::MAX);
        self.check_shards(source, ranks)?;
        layouts(spec, ranks).map_err(|error| ConfigError(format!("--tp {world}: {error}")))?;
        let context_max = self.max_model_len.unwrap_or(spec.context_max);
        if !(1..=spec.context_limit()).contains(&context_max) {
            return Err(ConfigError(format!(
                "--max-model-len {context_max}: expected 1 to {}, which the model was made for",
                spec.context_limit()
            )));
        }
        let all_threads = self.threads.map_or_else(config::cores, |threads| threads as usize);
        let threads = (all_threads / world).max(1);
        let dtype = match self.dtype {
            Dtype::Auto | Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::F16 => "f16",
        };
        Ok(Options {
            name,
            path: source.path().to_owned(),
            world,
            dtype,
            threads: u32::try_from(threads).unwrap_or(u32::MAX),
            context_max,
            slots_max: self.max_num_seqs,
            tokens_per_step_max: self.max_num_batched_tokens,
            kv_bytes_max: self.kv_bytes_max(source, world, dtype),
            step_deadline: Duration::from_secs_f32(self.step_deadline),
            verbosity: self.verbosity(),
        })
    }

    /// Shards are for one number of ranks, and are cached once.
    fn check_shards(&self, source: &Source, ranks: u32) -> Result<(), ConfigError> {
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

    /// How much to say.
    pub fn verbosity(&self) -> Verbosity {
        Verbosity::of(self.quiet, self.verbose)
    }

    /// Bytes of KV cache on one rank. Ranks hold about the same share of the heads; the one with
    /// most decides how many blocks there are.
    fn kv_bytes_max(&self, source: &Source, world: usize, dtype: &str) -> u64 {
        let groups = &source.spec().kv_groups;
        let element_bytes = if dtype == "f32" { 4 } else { 2 };
        let heads_of_rank = |kv_heads: u32| u64::from(kv_heads).div_ceil(world as u64);
        let position_bytes: u64 = groups
            .iter()
            .map(|group| {
                let head = 2 * element_bytes * u64::from(group.head_dim) * u64::from(group.layers);
                heads_of_rank(group.kv_heads) * head
            })
            .sum();
        match self.kv_cache_tokens {
            Some(tokens) => tokens.saturating_mul(position_bytes),
            None => config::memory_available_bytes() / 4 / world as u64,
        }
    }
}

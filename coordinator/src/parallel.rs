//! `--tp`: how many ranks share a model.
//!
//! What each rank then holds is worked out by the layouts of `binfer_shard`.

use binfer_shard::ModelSpec;
use binfer_shard::fit::{self, FitLimits};

use crate::config::ConfigError;

/// Why `--tp auto` takes the rank count that shards were cut for.
pub const SHARDS_REASON: &str = "shards are for so many";

/// The values of `--tp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorParallel {
    /// The fewest GPUs that hold the model; one rank on the CPU.
    Auto,
    /// As many ranks as there are GPUs.
    All,
    /// This many ranks.
    Ranks(u32),
}

/// The value of `--tp` cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a number from 1 to 64, `auto` or `all`")]
pub struct TensorParallelError;

impl TensorParallel {
    /// How many ranks there are, and why, if that was chosen here. `gpu_bytes` has the memory of
    /// each GPU that may be used.
    pub fn ranks(
        self,
        spec: &ModelSpec,
        limits: &FitLimits,
        gpu_bytes: &[u64],
    ) -> Result<(u32, Option<String>), ConfigError> {
        match self {
            Self::Ranks(ranks) => Ok((ranks, None)),
            Self::All if gpu_bytes.is_empty() => Err(ConfigError(
                "--tp all: there is no GPU that may be used; give a number, or `auto`".into(),
            )),
            Self::All => Ok((u32::try_from(gpu_bytes.len()).unwrap_or(u32::MAX), None)),
            Self::Auto => {
                let choice = fit::choose(spec, gpu_bytes, limits);
                let choice = choice.map_err(|error| ConfigError(format!("--tp auto: {error}")))?;
                Ok((choice.world, Some(choice.reason)))
            }
        }
    }
}

impl std::str::FromStr for TensorParallel {
    type Err = TensorParallelError;

    fn from_str(text: &str) -> Result<Self, TensorParallelError> {
        match text {
            "auto" => Ok(Self::Auto),
            "all" => Ok(Self::All),
            number => match number.parse() {
                Ok(ranks @ 1..=64) => Ok(Self::Ranks(ranks)),
                _ => Err(TensorParallelError),
            },
        }
    }
}

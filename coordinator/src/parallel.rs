//! `--tp`: how many ranks share a model.
//!
//! Deliberately absent: what each rank then holds, which the shard tool's layouts say.

use binfer_shard::ModelSpec;
use binfer_shard::fit::{self, Limits};

use crate::config::ConfigError;
use crate::device::Gpu;

/// Why `--tp auto` takes for shards what they were cut for.
pub const SHARDS_REASON: &str = "shards are for so many";

/// `--tp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorParallel {
    /// What fits: one rank on the CPU.
    Auto,
    /// As many ranks as there are GPUs.
    All,
    /// So many ranks.
    Ranks(u32),
}

impl TensorParallel {
    /// How many ranks, and why if that was chosen here; `gpus` are those that may be used.
    pub fn ranks(
        self,
        spec: &ModelSpec,
        limits: &Limits,
        gpus: &[Gpu],
    ) -> Result<(u32, Option<String>), ConfigError> {
        match self {
            Self::Ranks(ranks) => Ok((ranks, None)),
            Self::All if gpus.is_empty() => Err(ConfigError(
                "--tp all: there is no GPU that may be used; give a number, or `auto`".into(),
            )),
            Self::All => Ok((u32::try_from(gpus.len()).unwrap_or(u32::MAX), None)),
            Self::Auto => {
                let devices: Vec<u64> = gpus.iter().map(|gpu| gpu.bytes).collect();
                let choice = fit::choose(spec, &devices, limits);
                let choice = choice.map_err(|error| ConfigError(format!("--tp auto: {error}")))?;
                Ok((choice.world, Some(choice.reason)))
            }
        }
    }
}

impl std::str::FromStr for TensorParallel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "all" => Ok(Self::All),
            number => match number.parse() {
                Ok(ranks @ 1..=64) => Ok(Self::Ranks(ranks)),
                _ => Err("expected a number from 1 to 64, `auto` or `all`".into()),
            },
        }
    }
}

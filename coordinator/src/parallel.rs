//! `--tp`: how many ranks share a model.
//!
//! Deliberately absent: what each rank then holds, which the shard tool's layouts say.

use binfer_shard::ModelSpec;
use binfer_shard::fit::{self, Limits};

use crate::config::ConfigError;

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

/// Bytes of each GPU that ranks can share: none as long as a GPU runs one rank and no more.
const DEVICES: &[u64] = &[];

impl TensorParallel {
    /// How many ranks, and why if that was chosen here.
    pub fn ranks(
        self,
        spec: &ModelSpec,
        limits: &Limits,
    ) -> Result<(u32, Option<String>), ConfigError> {
        match self {
            Self::Ranks(ranks) => Ok((ranks, None)),
            Self::All if DEVICES.is_empty() => Err(ConfigError(
                "--tp all: ranks cannot share GPUs in this version; give a number, or `auto`"
                    .into(),
            )),
            Self::All => Ok((u32::try_from(DEVICES.len()).unwrap_or(u32::MAX), None)),
            Self::Auto => {
                let choice = fit::choose(spec, DEVICES, limits);
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

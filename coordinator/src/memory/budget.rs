//! Whether the ranks on the CPU fit into what may be taken, and what to do where they do not.

use binfer_shard::ModelSpec;
use binfer_shard::fit::{FitLimits, HostMemory, Ledger, RankLedger};

use super::available::{AvailableMemory, mib};
use super::cluster::available_to_cluster;
use super::kernel_files::KernelFiles;
use super::process::available_to_process;
use crate::config::ConfigError;

/// The memory that the ranks of a cluster on this host may take, and the limits that say so.
#[derive(Clone, Debug)]
pub struct HostBudget {
    cluster: AvailableMemory,
    /// For each rank, where the memory of a single process is limited.
    process: Option<AvailableMemory>,
}

impl HostBudget {
    /// The budget of ranks of `threads` compute threads each.
    pub fn of(files: &KernelFiles, threads: u32) -> Self {
        Self { cluster: available_to_cluster(files), process: available_to_process(files, threads) }
    }

    /// The same for the ledger.
    pub fn memory(&self) -> HostMemory {
        HostMemory {
            free_bytes: self.cluster.bytes,
            rank_bytes: self.process.as_ref().map_or(u64::MAX, |room| room.bytes),
            is_limit: self.cluster.limit.is_some() || self.process.is_some(),
        }
    }

    /// The limits that are set, for messages.
    pub fn limits(&self) -> Option<String> {
        let shared =
            self.cluster.limit.as_ref().map(|limit| {
                format!("{} MiB for all processes ({limit})", mib(self.cluster.bytes))
            });
        let process = self.process.as_ref().and_then(|room| {
            let limit = room.limit.as_ref()?;
            Some(format!("{} MiB for the tensors of a rank ({limit})", mib(room.bytes)))
        });
        let limits: Vec<String> = [shared, process].into_iter().flatten().collect();
        (!limits.is_empty()).then(|| limits.join(", "))
    }

    /// Refuses a cache that was asked for and does not fit, and a model for which a limit leaves no
    /// cache at all.
    pub fn check(
        &self,
        spec: &ModelSpec,
        world: u32,
        limits: &FitLimits,
        kv_cache_tokens: Option<u64>,
    ) -> Result<(), ConfigError> {
        let ledger = Ledger::new(spec, world, limits);
        let ledger = ledger.map_err(|error| ConfigError(format!("--tp {world}: {error}")))?;
        let fit = ledger.kv_tokens_fit;
        match kv_cache_tokens {
            Some(asked) if asked.min(limits.kv_tokens_max) > fit => Err(ConfigError(format!(
                "--kv-cache-tokens {asked}: {fit} fit; {}: give fewer, a smaller \
                 --max-num-batched-tokens or --dtype, or more memory",
                self.taken(&ledger)
            ))),
            None if ledger.kv_tokens == 0 => Err(ConfigError(format!(
                "the model does not fit; {}, which leaves nothing for the KV cache: give more \
                 memory, a smaller model, or a smaller --max-num-batched-tokens or --max-num-seqs",
                self.taken(&ledger)
            ))),
            _ => Ok(()),
        }
    }

    /// What may be taken, and what weights and activations take of it, for messages.
    fn taken(&self, ledger: &Ledger) -> String {
        let all = |of: fn(&RankLedger) -> u64| mib(ledger.ranks.iter().map(of).sum());
        let free = format!("{} MiB are free", mib(self.cluster.bytes));
        let may = self.limits().map_or(free, |limits| format!("there are {limits}"));
        format!(
            "{may}, a tenth of it stays free, and weights take {} MiB, activations {} MiB",
            all(|rank| rank.weight_bytes),
            all(|rank| rank.activation_bytes),
        )
    }
}

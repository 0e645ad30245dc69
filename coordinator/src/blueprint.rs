//! The settings of each part of a cluster, as they follow from checked options and an opened model.
//! Pure: nothing is started here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use binfer_proto::{Epoch, ReplicaId};
use binfer_shard::Checkpoint;
use binfer_shard::fit::{self, KvBudget, Ledger, Memory, RankLedger};

use crate::config::ConfigError;
use crate::fleet::{FleetConfig, FleetInfo, LoadConfig, Spawn};
use crate::front::ModelInfo;
use crate::options::ModelOptions;
use crate::sched::{KvGroupConfig, SchedConfig};
use crate::text::process::{Deadlines, TextConfig, TextSource};
use crate::text::{ReasoningFormat, TextFacts};

/// How long workers may take to dial in.
const ATTACH_DEADLINE: Duration = Duration::from_secs(30);
/// This program, even if its file was replaced or removed. It has all roles.
const PROGRAM: &str = "/proc/self/exe";
/// Requests that may wait in the queue.
pub(crate) const QUEUE_MAX: usize = 1024;
/// Prompt tokens of all requests in the queue.
pub(crate) const QUEUE_TOKENS_MAX: usize = 1 << 20;

/// A cluster that could be started.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// How to run it.
    pub options: ModelOptions,
    /// What to run.
    pub source: Arc<Checkpoint>,
    /// Weights are random, for measurements.
    pub random_weights: bool,
}

impl Blueprint {
    /// The fleet's settings: where workers come from and what they load.
    pub fn fleet_config(&self) -> FleetConfig {
        let options = &self.options;
        FleetConfig {
            replica: ReplicaId(0),
            epoch: Epoch(1),
            world: options.world,
            spawn: Spawn::Processes { program: PathBuf::from(PROGRAM) },
            step_deadline: options.step_deadline,
            attach_deadline: ATTACH_DEADLINE,
            load: LoadConfig {
                model: options.path.clone(),
                model_digest: self.source.digest(),
                kv_dtype: options.kv_dtype,
                threads: options.threads,
                slots_max: options.limits.sequences_max,
                tokens_per_step_max: options.limits.tokens_per_step_max,
                context_max: options.limits.context_max,
                kv_budget: self.kv_budget(),
                cuda: options.cuda.clone(),
                random_weights: self.random_weights,
                timing: options.timing.clone(),
            },
        }
    }

    /// The text process's settings. With `split_special_tokens`, control tokens in messages are
    /// text.
    pub fn text_config(&self, split_special_tokens: bool) -> TextConfig {
        TextConfig {
            program: PathBuf::from(PROGRAM),
            source: match self.random_weights {
                true => TextSource::Numbers(self.source.spec().vocab),
                false => TextSource::of(&self.source),
            },
            split_special_tokens,
            deadlines: Deadlines::default(),
        }
    }

    /// The scheduler's settings: slots, budgets, and pools as large as the smallest of any rank.
    pub fn sched_config(&self, facts: &FleetInfo) -> SchedConfig {
        let groups = self.source.spec().kv_groups.iter().zip(&facts.blocks);
        // Sequences are no longer than the pool, so that one always fits.
        let fits = self.kv_tokens(facts);
        let context_max =
            u32::try_from(fits).unwrap_or(u32::MAX).min(self.options.limits.context_max);
        SchedConfig {
            replica: ReplicaId(0),
            epoch: Epoch(1),
            slots_max: self.options.limits.sequences_max,
            tokens_per_step_max: self.options.limits.tokens_per_step_max,
            context_max,
            queue_max: QUEUE_MAX,
            queue_tokens_max: QUEUE_TOKENS_MAX,
            kv_groups: groups
                .map(|(group, blocks)| KvGroupConfig {
                    block_tokens: group.block_tokens,
                    blocks: *blocks,
                    window: group.kind.window(),
                })
                .collect(),
            prefix_cache: self.options.prefix_cache,
        }
    }

    /// What fronts know about the model.
    pub fn model_info(&self, text: &TextFacts, reasoning: ReasoningFormat) -> ModelInfo {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        ModelInfo {
            name: self.options.name.clone(),
            context_max: self.options.limits.context_max,
            vocab: self.source.spec().vocab,
            end_ids: text.end_ids().to_vec(),
            sampling: text.sampling(),
            reasoning,
            weights: self.source.digest(),
            created: now.as_secs(),
        }
    }

    /// Refuses a KV cache that was asked for where the workers' devices hold less.
    pub fn check_cache(&self, facts: &FleetInfo) -> Result<(), ConfigError> {
        let asked = self.options.kv_cache_tokens.unwrap_or(0);
        let fit = self.kv_tokens(facts);
        if asked.min(self.options.limits.kv_tokens_max) <= fit {
            return Ok(());
        }
        Err(ConfigError(format!(
            "--kv-cache-tokens {asked}: {fit} fit beside weights and activations ({}): give fewer, a \
             larger --gpu-memory-utilization, or more GPUs",
            facts.memory.join("; ")
        )))
    }

    /// The operator's note where the cache holds less than the longest sequence.
    pub fn context_note(&self, context_max: u32) -> Option<String> {
        let asked = self.options.limits.context_max;
        (context_max < asked).then(|| {
            format!(
                "the KV cache holds {context_max} tokens, so no sequence has more, and not the \
                 {asked} that it might have: give it more memory, or set --max-model-len"
            )
        })
    }

    /// Positions of whole sequences that the workers' pools hold.
    fn kv_tokens(&self, facts: &FleetInfo) -> u64 {
        fit::kv_tokens(self.source.spec(), &facts.blocks)
    }

    /// What the KV cache of a rank may take. Only the worker of a GPU knows what fits there.
    fn kv_budget(&self) -> KvBudget {
        match (self.options.limits.kv_budget, self.options.limits.memory) {
            (KvBudget::WhatFits, Memory::Host(_)) => {
                let ledger = self.ledger().ok();
                let bytes = ledger.and_then(|ledger| ledger.kv_bytes_max.into_iter().min());
                KvBudget::Bytes(bytes.unwrap_or(0))
            }
            (budget, _) => budget,
        }
    }

    /// The operator's line about what the GPUs hold, as their workers counted.
    pub fn gpu_summary(&self, facts: &FleetInfo) -> Option<String> {
        self.options.cuda.as_ref()?;
        let tokens = self.kv_tokens(facts);
        let memory = facts.memory.join("; ");
        let reason = self.options.tp_reason.iter().filter(|_| self.options.world > 1);
        let reason: String = reason.map(|why| format!("--tp auto: {why}; ")).collect();
        Some(format!("{reason}{memory}; KV cache {tokens} tokens in {}", self.options.kv_dtype))
    }

    fn world(&self) -> u32 {
        u32::try_from(self.options.world).unwrap_or(u32::MAX)
    }

    /// What each rank is going to hold. Workers come to the same numbers.
    ///
    /// # Errors
    /// When the model cannot be cut for so many ranks. The check of the options finds that first.
    pub fn ledger(&self) -> Result<Ledger, binfer_shard::Error> {
        Ledger::new(self.source.spec(), self.world(), &self.options.limits)
    }

    /// The operator's lines before anything is started on the CPU, where it is known what ranks
    /// will hold.
    ///
    /// # Errors
    /// As [`Self::ledger`].
    pub fn host_lines(&self) -> Result<Vec<String>, binfer_shard::Error> {
        let ledger = self.ledger()?;
        let mut lines = vec![format!("{}: {}", self.options.name, self.summary(&ledger))];
        lines.extend(
            self.options.host_limits.iter().map(|limits| format!("memory is limited: {limits}")),
        );
        if ledger.missing_bytes > 0 {
            let missing = ledger.missing_bytes.div_ceil(1 << 20);
            lines
                .push(format!("for a whole context {missing} MiB are missing (see `binfer plan`)"));
        }
        Ok(lines)
    }

    /// The ledger in one line, for the operator.
    pub fn summary(&self, ledger: &Ledger) -> String {
        let options = &self.options;
        let ranks = &ledger.ranks;
        let weights: Vec<String> =
            ranks.iter().map(|rank| (rank.weight_bytes >> 20).to_string()).collect();
        let mebibytes =
            |of: fn(&RankLedger) -> u64| ranks.iter().map(of).sum::<u64>().div_ceil(1 << 20);
        let reason = options.tp_reason.iter().map(|reason| format!(" (--tp auto: {reason})"));
        format!(
            "{} rank(s) x {} thread(s){}, weights {} MiB, activations {} MiB, \
             KV cache {} tokens in {}, {} MiB",
            options.world,
            options.threads,
            reason.collect::<String>(),
            weights.join(" + "),
            mebibytes(|rank| rank.activation_bytes),
            ledger.kv_tokens,
            options.kv_dtype,
            mebibytes(|rank| rank.kv_bytes),
        )
    }
}

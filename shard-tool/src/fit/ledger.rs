//! One rank count on given memory: what each rank holds, and how much KV cache that leaves.

use super::activations::ActivationArena;
use super::memory::{
    KvDemand, blocks_within, kv_bytes, kv_position_bytes, kv_tokens, kv_window_bytes,
    positions_within, sequences_within,
};
use super::rank_ledger::RankLedger;
use crate::{Error, ModelSpec, layout, layouts};

/// Activations are f32.
const ACTIVATION_BYTES: u64 = 4;
/// One part in so many of a device stays free, which is the default of
/// `--gpu-memory-utilization`.
const RESERVED_PART: u64 = 10;
/// Bytes of a CUDA context, which the driver takes before a process asks for memory.
pub const CONTEXT_BYTES: u64 = 512 << 20;
/// Bytes set aside for what the driver takes later: CUDA graphs, local memory, its libraries.
pub const DRIVER_BYTES: u64 = 768 << 20;
/// Bytes set aside for what NCCL takes where there are several ranks: channels, CUDA graphs of its
/// calls.
pub const COLLECTIVES_BYTES: u64 = 1 << 30;
/// The KV cache takes one part in so many of the host's free memory, unless there is a budget.
const HOST_KV_PART: u64 = 4;
/// Bytes that a process on the host takes beside tensors: heap, stacks, buffers of messages.
pub const PROCESS_BYTES: u64 = 24 << 20;

/// What a cluster is to hold room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FitLimits {
    /// Where ranks keep all of it.
    pub memory: Memory,
    /// What the KV cache of a rank may take of it.
    pub kv_budget: KvBudget,
    /// Bytes of an element of the KV cache.
    pub kv_element_bytes: u64,
    /// Positions of a sequence.
    pub context_max: u32,
    /// Sequences at once, and so outputs of a step.
    pub sequences_max: u32,
    /// The KV cache never holds more positions than this.
    pub kv_tokens_max: u64,
    /// Input tokens of a step.
    pub tokens_per_step_max: u32,
}

impl FitLimits {
    /// What the KV cache is to hold at most.
    #[must_use]
    pub fn kv_demand(&self) -> KvDemand {
        KvDemand {
            positions_max: self.kv_tokens_max,
            sequences_max: self.sequences_max,
            tokens_per_step_max: self.tokens_per_step_max,
        }
    }
}

/// What the KV cache of a rank may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvBudget {
    /// So many bytes, because somebody asked for them.
    Bytes(u64),
    /// On a device all that driver, weights and activations leave. On the host a quarter of what is
    /// free, in equal parts, and no more than a limit leaves.
    WhatFits,
}

impl KvBudget {
    /// The bytes that somebody asked for.
    #[must_use]
    pub fn bytes(self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::WhatFits => None,
        }
    }
}

/// The bytes that somebody asked for, or what fits.
impl From<Option<u64>> for KvBudget {
    fn from(bytes: Option<u64>) -> Self {
        bytes.map_or(Self::WhatFits, Self::Bytes)
    }
}

/// Where ranks keep what they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Each rank has a device of so many bytes. A tenth of it is left alone; KV takes what driver,
    /// weights and activations leave.
    Devices(u64),
    /// All ranks share the host's.
    Host(HostMemory),
}

/// What ranks on a host may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMemory {
    /// Bytes that are free for all of them together.
    pub free_bytes: u64,
    /// Bytes of tensors that one rank may hold, where a process is limited by itself.
    pub rank_bytes: u64,
    /// Whether a process that takes more is killed. Otherwise `free_bytes` is an estimate, and more
    /// is slow.
    pub is_limit: bool,
}

impl HostMemory {
    /// A host with so many free bytes and no limit.
    #[must_use]
    pub fn free(free_bytes: u64) -> Self {
        Self { free_bytes, rank_bytes: u64::MAX, is_limit: false }
    }

    /// Bytes of tensors that all ranks may hold: a tenth stays free, and each process takes its
    /// own.
    fn usable_bytes(self, ranks: usize) -> u64 {
        let processes = PROCESS_BYTES.saturating_mul(ranks as u64 + 1);
        (self.free_bytes - self.free_bytes / RESERVED_PART).saturating_sub(processes)
    }

    /// Bytes of KV cache that each rank has room for beside the rest that it holds.
    fn kv_bytes_left(self, ranks: &[RankLedger]) -> u64 {
        let fixed = ranks.iter().map(RankLedger::fixed).fold(0, u64::saturating_add);
        let shared = self.usable_bytes(ranks.len()).saturating_sub(fixed);
        let alone = ranks.iter().map(|rank| self.rank_bytes.saturating_sub(rank.fixed()));
        (shared / ranks.len().max(1) as u64).min(alone.min().unwrap_or(0))
    }

    /// Bytes of KV cache that each rank takes if nobody asks for a number.
    fn kv_bytes_that_fit(self, ranks: &[RankLedger]) -> u64 {
        let left = self.kv_bytes_left(ranks);
        let part = self.free_bytes / HOST_KV_PART / ranks.len().max(1) as u64;
        if self.is_limit { part.min(left) } else { part }
    }
}

impl Memory {
    /// Bytes that driver and collectives take on a rank.
    fn driver_bytes(self, world: u32) -> u64 {
        let collectives = if world > 1 { COLLECTIVES_BYTES } else { 0 };
        match self {
            Self::Devices(_) => CONTEXT_BYTES + DRIVER_BYTES + collectives,
            Self::Host(_) => 0,
        }
    }

    /// Bytes of KV cache that each of `ranks` takes at most beside the rest that it holds.
    fn kv_bytes_max(self, budget: KvBudget, ranks: &[RankLedger]) -> Vec<u64> {
        let of_device = |bytes: u64, rank: &RankLedger| {
            (bytes - bytes / RESERVED_PART).saturating_sub(rank.fixed())
        };
        match (budget, self) {
            (KvBudget::Bytes(bytes), _) => vec![bytes; ranks.len()],
            (KvBudget::WhatFits, Self::Devices(bytes)) => {
                ranks.iter().map(|rank| of_device(bytes, rank)).collect()
            }
            (KvBudget::WhatFits, Self::Host(host)) => {
                vec![host.kv_bytes_that_fit(ranks); ranks.len()]
            }
        }
    }
}

/// What all ranks hold together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Rank 0 first.
    pub ranks: Vec<RankLedger>,
    /// Blocks of each KV group: as many as the rank with the least room has.
    pub kv_blocks: Vec<u32>,
    /// Positions of whole sequences that the blocks hold.
    pub kv_tokens: u64,
    /// Sequences of `context_max` positions that the KV cache holds at once.
    pub contexts: u64,
    /// Bytes that are missing on the fullest rank, or on the host, for one full context; 0 where it
    /// fits.
    pub missing_bytes: u64,
    /// Bytes of KV cache that each rank takes at most.
    pub kv_bytes_max: Vec<u64>,
    /// Positions of KV cache that there is room for.
    pub kv_tokens_fit: u64,
}

impl Ledger {
    /// Works out what each of `world` ranks holds.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Layout`] when the model cannot be cut so often.
    pub fn new(spec: &ModelSpec, world: u32, limits: &FitLimits) -> Result<Self, Error> {
        let layouts = layouts(spec, world)?;
        let (element_bytes, context_max) = (limits.kv_element_bytes, limits.context_max);
        let mut ranks = Vec::new();
        for layout in &layouts {
            let (tokens, outputs) = (limits.tokens_per_step_max, limits.sequences_max);
            let activations = ActivationArena::new(spec, layout, tokens, outputs).elements();
            let weight_bytes = layout::weight_bytes(spec, layout)?;
            let activation_bytes = activations.saturating_mul(ACTIVATION_BYTES);
            ranks.push(RankLedger {
                driver_bytes: limits.memory.driver_bytes(world),
                weight_bytes,
                experts: layout.layers().map(|layer| layer.ffn.experts_held()).max().unwrap_or(0),
                activation_bytes,
                kv_position_bytes: kv_position_bytes(spec, layout, element_bytes),
                kv_window_bytes: kv_window_bytes(spec, layout, element_bytes, context_max),
                kv_bytes: 0,
            });
        }
        let kv_bytes_max = limits.memory.kv_bytes_max(limits.kv_budget, &ranks);
        let blocks = layouts.iter().zip(&kv_bytes_max).map(|(layout, bytes)| {
            blocks_within(spec, layout, element_bytes, limits.kv_demand(), *bytes)
        });
        let blocks: Vec<Vec<u32>> = blocks.collect();
        let smallest = |kv_group: usize| blocks.iter().map(|blocks| blocks[kv_group]).min();
        let kv_blocks: Vec<u32> = (0..spec.kv_groups.len()).filter_map(smallest).collect();
        for (rank, layout) in ranks.iter_mut().zip(&layouts) {
            rank.kv_bytes = kv_bytes(spec, layout, element_bytes, &kv_blocks);
        }
        let kv_tokens = kv_tokens(spec, &kv_blocks);
        let contexts = sequences_within(spec, &kv_blocks, context_max);
        let missing_bytes = missing(&ranks, limits, contexts, &kv_bytes_max);
        let fit = layouts.iter().zip(&kv_bytes_max).map(|(layout, most)| {
            let bytes = match limits.memory {
                Memory::Devices(_) => *most,
                Memory::Host(host) => host.kv_bytes_left(&ranks),
            };
            positions_within(spec, layout, element_bytes, limits.kv_demand(), bytes)
        });
        let kv_tokens_fit = fit.min().unwrap_or(0);
        Ok(Self {
            ranks,
            kv_blocks,
            kv_tokens,
            contexts,
            missing_bytes,
            kv_bytes_max,
            kv_tokens_fit,
        })
    }

    /// The rank that holds most.
    #[must_use]
    pub fn fullest(&self) -> Option<&RankLedger> {
        self.ranks.iter().max_by_key(|rank| (rank.total(), rank.weight_bytes))
    }
}

/// Bytes that are missing for one context, 0 if none.
fn missing(ranks: &[RankLedger], limits: &FitLimits, contexts: u64, kv_bytes_max: &[u64]) -> u64 {
    let least = |rank: &RankLedger| {
        let context = rank.kv_position_bytes.saturating_mul(limits.context_max.into());
        rank.fixed().saturating_add(context).saturating_add(rank.kv_window_bytes)
    };
    match limits.memory {
        Memory::Devices(_) if contexts > 0 => 0,
        Memory::Devices(bytes) => {
            let usable = bytes - bytes / RESERVED_PART;
            ranks.iter().map(|rank| least(rank).saturating_sub(usable)).max().unwrap_or(0).max(1)
        }
        Memory::Host(host) => {
            // A block more than the cache was given does not count: it is rounded up to whole ones.
            let held = |(rank, most): (&RankLedger, &u64)| {
                rank.fixed().saturating_add(rank.kv_bytes.min(*most)).max(least(rank))
            };
            let held = ranks.iter().zip(kv_bytes_max).map(held);
            let all = held.clone().fold(0, u64::saturating_add);
            let alone = held.map(|bytes| bytes.saturating_sub(host.rank_bytes));
            let shared = all.saturating_sub(host.usable_bytes(ranks.len()));
            shared.max(alone.max().unwrap_or(0))
        }
    }
}

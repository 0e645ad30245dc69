//! One rank count on given memory: what each rank holds, and how much KV cache that leaves.

use super::memory::{
    activation_elements, blocks_within, group_position_bytes, kv_position_bytes, sequences_within,
};
use crate::{Error, ModelSpec, layout, layouts};

/// Activations are f32.
const ACTIVATION_BYTES: u64 = 4;
/// Of a device one part in so many is left alone, as `--gpu-memory-utilization` has it by default.
const SPARED_PART: u64 = 10;
/// Bytes that a device's driver takes for a process before that asks for any: its context.
pub const CONTEXT_BYTES: u64 = 512 << 20;
/// Bytes set aside for what the driver takes later: recordings, local memory, its libraries.
pub const DRIVER_BYTES: u64 = 768 << 20;
/// The same for what NCCL takes where there are several ranks: channels, recordings of its calls.
pub const COLLECTIVES_BYTES: u64 = 1 << 30;
/// Of the host's free memory the KV cache takes one part in so many, unless told otherwise.
const HOST_KV_PART: u64 = 4;

/// What a cluster is to hold room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Where ranks keep all of it.
    pub memory: Memory,
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

/// Where ranks keep what they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Each rank has a device of so many bytes. A tenth of it is left alone; KV takes what driver,
    /// weights and activations leave.
    Devices(u64),
    /// All ranks share so many free bytes of the host.
    Host {
        /// Bytes that are free.
        free_bytes: u64,
        /// Bytes of KV cache on one rank; a quarter of what is free, in equal parts, if `None`.
        kv_bytes: Option<u64>,
    },
}

impl Memory {
    /// Bytes of a rank that are neither asked for nor left alone.
    fn driver_bytes(self, world: u32) -> u64 {
        let collectives = if world > 1 { COLLECTIVES_BYTES } else { 0 };
        match self {
            Self::Devices(_) => CONTEXT_BYTES + DRIVER_BYTES + collectives,
            Self::Host { .. } => 0,
        }
    }

    /// Bytes of KV cache that a rank may take beside so many other bytes.
    #[must_use]
    pub fn kv_bytes_max(self, world: u32, other_bytes: u64) -> u64 {
        match self {
            Self::Devices(bytes) => (bytes - bytes / SPARED_PART).saturating_sub(other_bytes),
            Self::Host { free_bytes, kv_bytes } => {
                kv_bytes.unwrap_or(free_bytes / HOST_KV_PART / u64::from(world.max(1)))
            }
        }
    }
}

/// What one rank holds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankLedger {
    /// What its device's driver and NCCL take by themselves.
    pub driver_bytes: u64,
    /// Its slices of all tensors.
    pub weight_bytes: u64,
    /// Its activations of the largest step.
    pub activation_bytes: u64,
    /// One position of KV cache.
    pub kv_position_bytes: u64,
    /// All of its KV cache.
    pub kv_bytes: u64,
}

impl RankLedger {
    /// All but the cache.
    fn fixed(&self) -> u64 {
        let driver_and_weights = self.driver_bytes.saturating_add(self.weight_bytes);
        driver_and_weights.saturating_add(self.activation_bytes)
    }

    fn total(&self) -> u64 {
        self.fixed().saturating_add(self.kv_bytes)
    }
}

/// What all ranks hold together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Rank 0 first.
    pub ranks: Vec<RankLedger>,
    /// Blocks of each KV group: as many as the rank with the least room has.
    pub kv_blocks: Vec<u32>,
    /// Positions that every group's blocks cover.
    pub kv_tokens: u64,
    /// Sequences of `context_max` positions that the KV cache holds at once.
    pub contexts: u64,
    /// Bytes that are missing on the fullest rank, or on the host, for one full context; 0: it fits.
    pub missing_bytes: u64,
}

impl Ledger {
    /// Works it out for `world` ranks.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Layout`] when the model cannot be cut so often.
    pub fn new(spec: &ModelSpec, world: u32, limits: &Limits) -> Result<Self, Error> {
        let layouts = layouts(spec, world)?;
        let (mut ranks, mut blocks) = (Vec::new(), Vec::<Vec<u32>>::new());
        for layout in &layouts {
            let (tokens, outputs) = (limits.tokens_per_step_max, limits.sequences_max);
            let activations = activation_elements(spec, layout, tokens, outputs);
            let weight_bytes = layout::weight_bytes(spec, layout)?;
            let activation_bytes = activations.saturating_mul(ACTIVATION_BYTES);
            let element_bytes = limits.kv_element_bytes;
            let rank = RankLedger {
                driver_bytes: limits.memory.driver_bytes(world),
                weight_bytes,
                activation_bytes,
                kv_position_bytes: kv_position_bytes(spec, layout, element_bytes),
                kv_bytes: 0,
            };
            let budget = limits.memory.kv_bytes_max(world, rank.fixed());
            blocks.push(blocks_within(spec, layout, element_bytes, budget, limits.kv_tokens_max));
            ranks.push(rank);
        }
        let smallest = |group: usize| blocks.iter().map(|blocks| blocks[group]).min();
        let kv_blocks: Vec<u32> = (0..spec.kv_groups.len()).filter_map(smallest).collect();
        for (rank, layout) in ranks.iter_mut().zip(&layouts) {
            let groups = spec.kv_groups.iter().zip(&kv_blocks);
            let bytes = groups.map(|(group, blocks)| {
                let position = group_position_bytes(group, layout, limits.kv_element_bytes);
                position * u64::from(group.block_tokens) * u64::from(*blocks)
            });
            rank.kv_bytes = bytes.sum();
        }
        let covered = spec.kv_groups.iter().zip(&kv_blocks);
        let covered =
            covered.map(|(group, blocks)| u64::from(group.block_tokens) * u64::from(*blocks));
        let kv_tokens = covered.min().unwrap_or(0);
        let contexts = sequences_within(spec, &kv_blocks, limits.context_max);
        let missing_bytes = missing(&ranks, limits, contexts);
        Ok(Self { ranks, kv_blocks, kv_tokens, contexts, missing_bytes })
    }

    /// The rank that holds most.
    #[must_use]
    pub fn fullest(&self) -> Option<&RankLedger> {
        self.ranks.iter().max_by_key(|rank| (rank.total(), rank.weight_bytes))
    }
}

/// Bytes that are missing for one context, 0 if none.
fn missing(ranks: &[RankLedger], limits: &Limits, contexts: u64) -> u64 {
    let least = |rank: &RankLedger| {
        let context = rank.kv_position_bytes.saturating_mul(limits.context_max.into());
        rank.fixed().saturating_add(context)
    };
    match limits.memory {
        Memory::Devices(_) if contexts > 0 => 0,
        Memory::Devices(bytes) => {
            let usable = bytes - bytes / SPARED_PART;
            ranks.iter().map(|rank| least(rank).saturating_sub(usable)).max().unwrap_or(0).max(1)
        }
        Memory::Host { free_bytes, .. } => {
            let held = |rank: &RankLedger| rank.total().max(least(rank));
            ranks.iter().map(held).sum::<u64>().saturating_sub(free_bytes)
        }
    }
}

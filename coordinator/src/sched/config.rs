//! The scheduler's configuration, and the arithmetic of blocks that follows from it.
//!
//! Deliberately absent: where the numbers come from. Pools and windows are those of the fleet,
//! limits those of the command line.

use binfer_proto::{Epoch, ReplicaId};

/// The scheduler's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedConfig {
    /// The replica that plans are for.
    pub replica: ReplicaId,
    /// Its first epoch; [`super::Scheduler::abort_all`] begins the next one.
    pub epoch: Epoch,
    /// Most sequences that run at once.
    pub slots_max: u32,
    /// Most input tokens of a plan, over all rows. At least `slots_max`, so that no sequence
    /// starves.
    pub tokens_per_step_max: u32,
    /// Most tokens of a sequence, prompt and answer together.
    pub context_max: u32,
    /// Most requests that wait and never ran.
    pub queue_max: usize,
    /// Most prompt tokens of these requests. An empty queue takes any prompt.
    pub queue_tokens_max: usize,
    /// The model's KV groups. A sequence has a block table in each.
    pub kv_groups: Vec<KvGroupConfig>,
    /// Whether full blocks are cached and shared.
    pub prefix_cache: bool,
}

/// Blocks and window of one KV group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvGroupConfig {
    /// Positions in a block.
    pub block_tokens: u32,
    /// Blocks of the pool: as many as the rank with the fewest has.
    pub blocks: u32,
    /// How many positions a position attends to, itself included. `None` is all before it.
    pub window: Option<u32>,
}

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchedConfigError {
    /// A number is 0.
    #[error("{name} must be above 0")]
    Zero {
        /// Its name.
        name: &'static str,
    },
    /// A plan could not have one token of every running sequence.
    #[error("tokens_per_step_max {tokens} is below slots_max {slots}")]
    StepTooSmall {
        /// `tokens_per_step_max`.
        tokens: u32,
        /// `slots_max`.
        slots: u32,
    },
}

impl SchedConfig {
    pub(super) fn check(&self) -> Result<(), SchedConfigError> {
        let mut zeros = vec![
            ("slots_max", self.slots_max as usize),
            ("context_max", self.context_max as usize),
            ("queue_max", self.queue_max),
            ("kv_groups", self.kv_groups.len()),
        ];
        for group in &self.kv_groups {
            zeros.push(("block_tokens", group.block_tokens as usize));
            zeros.push(("blocks", group.blocks as usize));
            zeros.push(("window", group.window.map_or(1, |window| window as usize)));
        }
        if let Some((name, _)) = zeros.into_iter().find(|(_, value)| *value == 0) {
            return Err(SchedConfigError::Zero { name });
        }
        let (tokens, slots) = (self.tokens_per_step_max, self.slots_max);
        if tokens < slots {
            return Err(SchedConfigError::StepTooSmall { tokens, slots });
        }
        Ok(())
    }

    /// Hits in the prefix cache are multiples of this many tokens: whole blocks in every KV group.
    pub(super) fn hit_unit(&self) -> usize {
        self.kv_groups.iter().fold(1, |unit, group| lcm(unit, group.block_tokens as usize))
    }
}

impl KvGroupConfig {
    /// Blocks that suffice for a sequence with `positions` written positions, in rows of one token.
    pub(super) fn blocks_needed(&self, positions: usize) -> usize {
        let all = positions.div_ceil(self.block_tokens as usize);
        match self.window {
            None => all,
            // A window that begins on the last position of a block touches the most blocks.
            Some(window) => {
                let block_tokens = self.block_tokens as usize;
                all.min((window as usize + block_tokens - 2) / block_tokens + 1)
            }
        }
    }

    /// Index of the first block that a row from `start` on, or any later row, can read or write.
    pub(super) fn first_block(&self, start: usize) -> usize {
        let window = self.window.map_or(usize::MAX, |window| window as usize);
        (start + 1).saturating_sub(window) / self.block_tokens as usize
    }
}

fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

//! What a scheduler is told once, and the arithmetic of blocks that follows from it.
//!
//! Deliberately absent: where the numbers come from. The fleet knows pools and windows, the command
//! line knows the limits.

use binfer_proto::{Epoch, ReplicaId};

/// Everything that a scheduler is told, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedConfig {
    /// The replica that plans are for.
    pub replica: ReplicaId,
    /// Its first life; `abort_all` begins the next one.
    pub epoch: Epoch,
    /// Sequences that run at once.
    pub slots_max: u32,
    /// Input tokens of a plan, over all rows. At least `slots_max`, so that no sequence starves.
    pub tokens_per_step_max: u32,
    /// Tokens of a sequence, prompt and generated.
    pub context_max: u32,
    /// Requests that wait and never ran; one more is refused.
    pub queue_max: usize,
    /// Prompt tokens of those requests. An empty queue takes any prompt.
    pub queue_tokens_max: usize,
    /// One per block table of the model.
    pub kv_groups: Vec<KvGroupConfig>,
    /// Whether full blocks outlive their sequence and are shared.
    pub prefix_cache: bool,
}

/// The pool of one KV group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvGroupConfig {
    /// Positions in a block.
    pub block_tokens: u32,
    /// Blocks of the pool, the smallest over ranks.
    pub blocks: u32,
    /// A position attends to this many positions, itself included; to all before it if `None`.
    pub window: Option<u32>,
}

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchedConfigError {
    /// A number that must not be 0 is.
    #[error("{name} must be above 0")]
    Zero {
        /// Its name.
        name: &'static str,
    },
    /// A step could not hold one token of every sequence.
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

    /// Hits in the prefix cache are a multiple of this many tokens: whole blocks in every group.
    pub(super) fn hit_unit(&self) -> usize {
        self.kv_groups.iter().fold(1, |unit, group| lcm(unit, group.block_tokens as usize))
    }
}

impl KvGroupConfig {
    /// Blocks that suffice for a sequence with this many written positions, in rows of one token.
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

    /// First block that a row which begins at `start`, or any later one, can read or write.
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

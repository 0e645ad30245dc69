//! What fronts may know of the engine's load.

use std::time::{Duration, Instant};

/// The load at one moment. Before the engine runs, everything is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Requests that hold a slot.
    pub running: usize,
    /// Requests that wait for one.
    pub waiting: usize,
    /// Requests that can run at once.
    pub running_max: usize,
    /// Tokens in a block of the KV cache.
    pub block_tokens: u32,
    /// Tokens that the KV cache holds.
    pub kv_tokens_max: usize,
    /// Tokens that requests hold in it.
    pub kv_tokens_used: usize,
    /// Tokens of prefixes that it keeps and that no request holds.
    pub kv_tokens_cached: usize,
    /// Tokens sampled a second, over the last second.
    pub generated_per_s: f64,
    /// The share of all prompt tokens so far that came out of the prefix cache.
    pub cached_share: f64,
    /// When the last step ended, or the first request came after that; `None` while nothing runs.
    pub stepped_at: Option<Instant>,
}

impl Load {
    /// How long no step has ended while there was something to do.
    pub fn silence(&self) -> Option<Duration> {
        self.stepped_at.map(|at| at.elapsed())
    }

    /// The share of the slots that requests hold.
    pub fn slots_share(&self) -> f64 {
        share(self.running, self.running_max)
    }

    /// The share of the KV cache that requests hold.
    pub fn active_share(&self) -> f64 {
        share(self.kv_tokens_used, self.kv_tokens_max)
    }

    /// The share of the KV cache that requests and cached prefixes hold.
    pub fn used_share(&self) -> f64 {
        share(self.kv_tokens_used + self.kv_tokens_cached, self.kv_tokens_max)
    }
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

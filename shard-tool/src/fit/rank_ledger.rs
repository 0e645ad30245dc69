//! What one rank holds.

/// What one rank holds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankLedger {
    /// What the device's driver and NCCL take by themselves.
    pub driver_bytes: u64,
    /// The rank's slices of all tensors.
    pub weight_bytes: u64,
    /// Experts of a layer; 0 where no layer is a mixture.
    pub experts: u32,
    /// Activations of the largest step.
    pub activation_bytes: u64,
    /// One more position of KV cache of a long sequence.
    pub kv_position_bytes: u64,
    /// KV cache of one sequence of `context_max` positions in layers with a window.
    pub kv_window_bytes: u64,
    /// The whole KV cache.
    pub kv_bytes: u64,
}

impl RankLedger {
    /// All but the KV cache.
    pub(super) fn fixed(&self) -> u64 {
        let driver_and_weights = self.driver_bytes.saturating_add(self.weight_bytes);
        driver_and_weights.saturating_add(self.activation_bytes)
    }

    pub(super) fn total(&self) -> u64 {
        self.fixed().saturating_add(self.kv_bytes)
    }
}

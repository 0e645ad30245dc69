//! Where routing keeps what it finds, for the largest step.

use binfer_kernels::moe::MoeSchedule;
use binfer_kernels::moe_params::MoeTile;

use crate::backend::MemoryLayout;
use crate::backend::cuda::launch::to_u32;

/// Places between the kernels of a mixture of experts; slots and positions as in
/// `cuda/moe_params.h`.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::backend::cuda) struct MoePlaces {
    /// f32 `[tokens, experts]`.
    pub(in crate::backend::cuda) logits: u64,
    /// u32 `[slots]`.
    pub(in crate::backend::cuda) experts_of: u64,
    /// f32 `[slots]`.
    pub(super) weights: u64,
    /// u32 `[chunks, experts]`.
    pub(super) counts: u64,
    /// u32 `[slots]`.
    pub(super) positions: u64,
    /// u32 `[positions]`.
    pub(super) slots_at: u64,
    /// [`MoeTile`]`[tiles]`: no routing has more tiles than positions.
    pub(super) tiles: u64,
}

impl MoePlaces {
    /// Lays them out in places that `take` gives for so many bytes.
    pub(in crate::backend::cuda) fn lay_out(
        layout: &MemoryLayout,
        take: &mut dyn FnMut(usize) -> u64,
    ) -> Self {
        let (experts, top_k) = (layout.experts_max, layout.experts_per_token_max);
        if experts == 0 {
            return Self::default();
        }
        let slots = layout.tokens_max * top_k;
        let chunks = MoeSchedule::chunks_bound(to_u32(layout.tokens_max), to_u32(top_k));
        Self {
            logits: take(size_of::<f32>() * layout.tokens_max * experts),
            experts_of: take(size_of::<u32>() * slots),
            weights: take(size_of::<f32>() * slots),
            counts: take(size_of::<u32>() * chunks as usize * experts),
            positions: take(size_of::<u32>() * slots),
            slots_at: take(size_of::<u32>() * slots),
            tiles: take(size_of::<MoeTile>() * slots),
        }
    }
}

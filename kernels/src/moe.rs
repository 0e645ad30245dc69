//! How the tokens of a mixture of experts are cut: into chunks that one block routes and sorts, and
//! into tiles of one expert's positions that one block multiplies (`cuda/moe_params.h`).
//!
//! Pure, and from upper bounds alone: how many tokens an expert gets is known to the device only,
//! so a CUDA graph fits every routing.

use crate::moe_params::CHUNK_SLOTS_MAX;

/// Tokens of a chunk are a multiple of so many: the warps of a block of `moe_route`.
const CHUNK_TOKENS_UNIT: u32 = 4;
/// Chunks that are enough for a chip; every block of `moe_sort` reads the counts of all.
const CHUNKS: u32 = 128;

/// A step of a mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoeShape {
    /// Tokens, padding included.
    pub tokens: u32,
    /// Experts of a token.
    pub top_k: u32,
    /// Experts of this rank.
    pub local_experts: u32,
}

/// How it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoeSchedule {
    /// Tokens of a chunk.
    pub chunk_tokens: u32,
    /// Chunks.
    pub chunks: u32,
    /// Positions of a tile, at most.
    pub tile_tokens: u32,
    /// Tiles that no routing exceeds.
    pub tiles_max: u32,
}

impl MoeShape {
    /// Slots of all tokens.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.tokens * self.top_k
    }

    /// Cuts it, for grouped gemms with tiles of so many tokens.
    #[must_use]
    pub fn schedule(&self, tile_tokens: u32) -> MoeSchedule {
        let most = CHUNK_SLOTS_MAX / self.top_k.max(1);
        let most = (most / CHUNK_TOKENS_UNIT * CHUNK_TOKENS_UNIT).max(CHUNK_TOKENS_UNIT);
        let even = self.tokens.div_ceil(CHUNKS).next_multiple_of(CHUNK_TOKENS_UNIT);
        let chunk_tokens = even.clamp(CHUNK_TOKENS_UNIT, most);
        // Every expert that has any positions has at most one tile that is not full.
        let slots = self.slots();
        let tiles_max = slots.min(slots / tile_tokens + slots.min(self.local_experts));
        let chunks = self.tokens.div_ceil(chunk_tokens);
        MoeSchedule { chunk_tokens, chunks, tile_tokens, tiles_max }
    }
}

/// Bounds of what schedules ask for, for memory that is taken before any step.
impl MoeSchedule {
    /// Chunks of a step of up to so many tokens, at most.
    #[must_use]
    pub fn chunks_bound(tokens_max: u32, top_k: u32) -> u32 {
        let whole = MoeShape { tokens: tokens_max, top_k, local_experts: 1 }.schedule(1);
        CHUNKS.max(whole.chunks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tiles of a routing that gives experts so many positions.
    fn tiles(positions: &[u32], tile_tokens: u32) -> u32 {
        positions.iter().map(|count| count.div_ceil(tile_tokens)).sum()
    }

    #[test]
    fn no_routing_exceeds_the_tiles_and_no_step_the_chunks() {
        for (top_k, experts) in [(1, 1), (2, 8), (4, 32), (8, 128), (6, 64), (8, 256), (32, 512)] {
            for tokens in [1, 2, 3, 4, 5, 8, 31, 64, 100, 513, 8192, 16_384] {
                let shape = MoeShape { tokens, top_k, local_experts: experts };
                for tile in [8, 16, 32, 64, 128] {
                    let schedule = shape.schedule(tile);
                    assert!(schedule.chunk_tokens * top_k <= CHUNK_SLOTS_MAX, "{schedule:?}");
                    assert!(schedule.chunks * schedule.chunk_tokens >= tokens);
                    assert!((schedule.chunks - 1) * schedule.chunk_tokens < tokens);
                    assert!(schedule.chunks <= MoeSchedule::chunks_bound(16_384, top_k));
                    // All tokens to the same experts; then one position to as many as possible and
                    // the rest to one.
                    let same = vec![tokens; top_k.min(experts) as usize];
                    let slots = shape.slots();
                    let ones = slots.min(experts);
                    let mut spread = vec![1; ones as usize];
                    spread[0] += slots - ones;
                    for positions in [same, spread] {
                        assert!(tiles(&positions, tile) <= schedule.tiles_max, "{shape:?} {tile}");
                    }
                    assert!(schedule.tiles_max <= 65_535 || tile < 16, "grids have so many rows");
                }
            }
        }
    }
}

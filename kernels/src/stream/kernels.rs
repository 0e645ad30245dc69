//! The kernels of stream products: what sets one apart from the others. Deliberately absent: which
//! one serves a shape.

use super::STREAM_NORM_TOKENS_MAX;

/// Tokens of the smallest tile of which there may be several: `cuda/stream_ring.cuh`.
pub(super) const TILED_TOKENS_MIN: u32 = 96;
/// Rows that a warpgroup multiplies.
pub(super) const GROUP_ROWS: u32 = 64;

/// One of the kernels `stream_product_{variant}_{type}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamKernel {
    /// Its place in the name.
    pub variant: &'static str,
    /// Tokens of a tile: rows of the box of x's tensor map.
    pub tokens: u32,
    /// Weight rows of a tile at most.
    pub rows_max: u32,
    /// Slices of 64 columns that a stage of the ring holds.
    pub slices: u32,
    /// Threads of a block.
    pub threads: u32,
    /// There is a `head_product_{variant}_{type}`, see `cuda/head_product.cu`.
    pub has_head: bool,
}

impl StreamKernel {
    /// Whether it takes its part in norms before and behind it, see `cuda/stream_finish.cuh`.
    #[must_use]
    pub fn folds_norms(&self) -> bool {
        self.tokens <= STREAM_NORM_TOKENS_MAX
    }

    /// Into how many tiles so many tokens are cut; 0 where it does not take them. Two tiles read
    /// weights again, out of the second-level cache, but x half as often.
    pub(super) fn token_tiles(&self, tokens: u32) -> u32 {
        let tiles = tokens.div_ceil(self.tokens);
        let tiles_max = if self.tokens >= TILED_TOKENS_MIN { 2 } else { 1 };
        if tiles <= tiles_max { tiles } else { 0 }
    }

    const fn and_head(self) -> Self {
        Self { has_head: true, ..self }
    }
}

/// All of them, by tokens, and of equals the better one first; the table at the end of
/// `cuda/stream_product.cu`.
pub const STREAM_KERNELS: [StreamKernel; 10] = [
    kernel("n8s8", 8, 1, 8).and_head(),
    kernel("n8s4", 8, 1, 4),
    kernel("n16s8", 16, 1, 8),
    kernel("n16s4", 16, 1, 4).and_head(),
    kernel("n32", 32, 1, 4).and_head(),
    kernel("n64", 64, 1, 2).and_head(),
    kernel("n96", 96, 3, 1).and_head(),
    kernel("n128", 128, 3, 1).and_head(),
    kernel("n192", 192, 3, 1),
    kernel("n256", 256, 3, 1),
];

/// A kernel of so many warpgroups that multiply; three of them leave one to the copying warp.
const fn kernel(variant: &'static str, tokens: u32, groups: u32, slices: u32) -> StreamKernel {
    let threads = if groups == 3 { 512 } else { 128 * groups + 32 };
    let rows_max = GROUP_ROWS * groups;
    StreamKernel { variant, tokens, rows_max, slices, threads, has_head: false }
}

//! The skinny gemm kernels: what sets one apart from the others. Deliberately absent: which one
//! serves a shape.

use super::FUSED_NORM_M_MAX;

/// Tokens of the smallest tile of which there may be several: `cuda/skinny_gemm_ring.cuh`.
pub(super) const TILED_M_MIN: u32 = 96;
/// Output features that a warpgroup multiplies.
pub(super) const WARPGROUP_N: u32 = 64;

/// One of the kernels `skinny_gemm_sm90_{variant}_{type}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkinnyGemmKernel {
    /// Its place in the name.
    pub variant: &'static str,
    /// Tokens of a tile: rows of the box of x's tensor map.
    pub tile_m: u32,
    /// Most output features of a tile.
    pub tile_n_max: u32,
    /// Slices of 64 columns that a stage of the ring holds.
    pub slices: u32,
    /// Threads of a block.
    pub threads: u32,
    /// There is a `lm_head_gemm_{variant}_{type}`, see `cuda/lm_head_gemm.cu`.
    pub has_lm_head: bool,
}

impl SkinnyGemmKernel {
    /// Whether it takes its share of the norms before and behind it, see
    /// `cuda/skinny_gemm_epilogue.cuh`.
    #[must_use]
    pub fn folds_norms(&self) -> bool {
        self.tile_m <= FUSED_NORM_M_MAX
    }

    /// Into how many tiles so many tokens are cut; 0 where it does not take them. Two tiles read
    /// weights again, out of the second-level cache, but x half as often.
    pub(super) fn m_tiles(&self, m: u32) -> u32 {
        let tiles = m.div_ceil(self.tile_m);
        let tiles_max = if self.tile_m >= TILED_M_MIN { 2 } else { 1 };
        if tiles <= tiles_max { tiles } else { 0 }
    }

    const fn and_lm_head(self) -> Self {
        Self { has_lm_head: true, ..self }
    }
}

/// All of them, by tokens, and of equals the better one first; the table at the end of
/// `cuda/skinny_gemm_sm90.cu`.
pub const SKINNY_GEMM_KERNELS: [SkinnyGemmKernel; 10] = [
    kernel("n8s8", 8, 1, 8).and_lm_head(),
    kernel("n8s4", 8, 1, 4),
    kernel("n16s8", 16, 1, 8),
    kernel("n16s4", 16, 1, 4).and_lm_head(),
    kernel("n32", 32, 1, 4).and_lm_head(),
    kernel("n64", 64, 1, 2).and_lm_head(),
    kernel("n96", 96, 3, 1).and_lm_head(),
    kernel("n128", 128, 3, 1).and_lm_head(),
    kernel("n192", 192, 3, 1),
    kernel("n256", 256, 3, 1),
];

/// A kernel of so many warpgroups that multiply; three of them leave one to the copying warp.
const fn kernel(variant: &'static str, tile_m: u32, groups: u32, slices: u32) -> SkinnyGemmKernel {
    let threads = if groups == 3 { 512 } else { 128 * groups + 32 };
    let tile_n_max = WARPGROUP_N * groups;
    SkinnyGemmKernel { variant, tile_m, tile_n_max, slices, threads, has_lm_head: false }
}

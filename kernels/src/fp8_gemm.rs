//! Which kernel of `cuda/moe_gemm_fp8_sm90.cu` a gemm with weights in FP8 gets on Hopper, for any
//! number of tokens, and how it is launched. Those of experts follow from `moe_gemm.rs`.

use crate::Target;
use crate::chip::Chip;
use crate::gemm::{Epilogue, GemmShape};
use crate::list::{self, Kernel};
use crate::moe_gemm::{MOE_GEMM_SLICE, MoeWeights, ring};
use crate::moe_params::MoeGemmSm90Params;

/// Rows of weights of a warpgroup.
const WARPGROUP_ROWS: u32 = 64;
/// Slices of a stage: a block of FP8 has 128 columns.
pub const FP8_GEMM_SLICES: u32 = 2;

/// A kernel: a tile's tokens, and warpgroups that multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fp8GemmKernel {
    /// Tokens of a tile.
    pub tile_tokens: u32,
    /// Warpgroups, of 64 rows of weights each.
    pub warpgroups: u32,
}

const fn kernel(tile_tokens: u32, warpgroups: u32) -> Fp8GemmKernel {
    Fp8GemmKernel { tile_tokens, warpgroups }
}

/// All kernels, as [`FP8_GEMM_SM90`] has them.
pub const FP8_GEMM_KERNELS: [Fp8GemmKernel; 9] = [
    kernel(8, 1),
    kernel(8, 2),
    kernel(16, 1),
    kernel(16, 2),
    kernel(32, 1),
    kernel(32, 2),
    kernel(64, 1),
    kernel(64, 2),
    kernel(128, 2),
];

/// The gemms with weights in FP8, as [`FP8_GEMM_KERNELS`] has them.
pub const FP8_GEMM_SM90: [[Kernel<MoeGemmSm90Params>; 2]; 9] = [
    [list::MOE_GEMM_SM90_N8W1_FP8, list::MOE_GEMM_SM90_N8W1_FP8_GLU],
    [list::MOE_GEMM_SM90_N8W2_FP8, list::MOE_GEMM_SM90_N8W2_FP8_GLU],
    [list::MOE_GEMM_SM90_N16W1_FP8, list::MOE_GEMM_SM90_N16W1_FP8_GLU],
    [list::MOE_GEMM_SM90_N16W2_FP8, list::MOE_GEMM_SM90_N16W2_FP8_GLU],
    [list::MOE_GEMM_SM90_N32W1_FP8, list::MOE_GEMM_SM90_N32W1_FP8_GLU],
    [list::MOE_GEMM_SM90_N32W2_FP8, list::MOE_GEMM_SM90_N32W2_FP8_GLU],
    [list::MOE_GEMM_SM90_N64W1_FP8, list::MOE_GEMM_SM90_N64W1_FP8_GLU],
    [list::MOE_GEMM_SM90_N64W2_FP8, list::MOE_GEMM_SM90_N64W2_FP8_GLU],
    [list::MOE_GEMM_SM90_N128W2_FP8, list::MOE_GEMM_SM90_N128W2_FP8_GLU],
];

/// Of these those that grouped gemms of experts take, by the places of
/// [`crate::moe_gemm::MOE_TILE_TOKENS`].
pub const MOE_GEMM_SM90_FP8: [[Kernel<MoeGemmSm90Params>; 2]; 5] =
    [FP8_GEMM_SM90[1], FP8_GEMM_SM90[3], FP8_GEMM_SM90[5], FP8_GEMM_SM90[7], FP8_GEMM_SM90[8]];

/// How a gemm is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fp8GemmConfig {
    /// Place in [`FP8_GEMM_KERNELS`].
    pub kernel: usize,
    /// Tiles of the tokens.
    pub tiles: u32,
    /// Blocks.
    pub blocks: u32,
    /// Stages of the ring.
    pub stages: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

impl Fp8GemmKernel {
    /// Rows of weights of a block.
    #[must_use]
    pub const fn rows(&self) -> u32 {
        self.warpgroups * WARPGROUP_ROWS
    }

    /// Pieces of work of a gemm: rows of a block times a tile's tokens.
    fn pieces(&self, shape: &GemmShape) -> u64 {
        u64::from(shape.n.div_ceil(self.rows())) * u64::from(shape.m.div_ceil(self.tile_tokens))
    }

    /// Whether every multiprocessor gets work.
    fn goes_round(&self, shape: &GemmShape, chip: &Chip) -> bool {
        self.pieces(shape) >= chip.multiprocessors.into()
    }
}

/// The config of a gemm; `None` where no kernel of this kind takes it.
#[must_use]
pub fn fp8_gemm_config(shape: &GemmShape, chip: &Chip) -> Option<Fp8GemmConfig> {
    let GemmShape { m, n, k, epilogue } = *shape;
    // Rows of x are copied in pieces of 16 bytes, and gate and up take turns by eight rows.
    let turns = if epilogue == Epilogue::Glu { 16 } else { 1 };
    let fits = k.is_multiple_of(8) && n.is_multiple_of(turns) && epilogue != Epilogue::LmHead;
    if chip.target != Target::Sm90a || !fits || m == 0 || n == 0 || k == 0 {
        return None;
    }
    let most = FP8_GEMM_KERNELS[FP8_GEMM_KERNELS.len() - 1].tile_tokens;
    let tile = FP8_GEMM_KERNELS.iter().map(|kernel| kernel.tile_tokens).find(|tile| *tile >= m);
    let tile = tile.unwrap_or(most);
    let mut of_tile =
        FP8_GEMM_KERNELS.iter().enumerate().rev().filter(|(_, of)| of.tile_tokens == tile);
    // Of two warpgroups one unpacks while the other multiplies, but they leave some multiprocessors
    // without work where rows are few.
    let larger = of_tile.next()?;
    let smaller = of_tile.next().filter(|_| !larger.1.goes_round(shape, chip));
    let (index, kernel) = smaller.unwrap_or(larger);
    let slice_bytes = kernel.warpgroups * MoeWeights::Fp8.slice_bytes();
    let (stages, shared_bytes) = ring(FP8_GEMM_SLICES * (tile * 2 * MOE_GEMM_SLICE + slice_bytes));
    let pieces = u32::try_from(kernel.pieces(shape)).unwrap_or(u32::MAX);
    Some(Fp8GemmConfig {
        kernel: index,
        tiles: m.div_ceil(tile),
        blocks: pieces.min(chip.multiprocessors),
        stages,
        shared_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const H200: Chip =
        Chip { target: Target::Sm90a, multiprocessors: 132, shared_bytes_max: 227 << 10 };

    fn config(m: u32, n: u32, k: u32, epilogue: Epilogue) -> Option<Fp8GemmConfig> {
        fp8_gemm_config(&GemmShape { m, n, k, epilogue }, &H200)
    }

    #[test]
    fn few_rows_go_to_more_blocks_and_many_to_larger_ones() {
        // DeepSeek-V3: q_a, q_b, o, gate and up of a dense layer.
        for (m, n, k, rows, tile, blocks) in [
            (1, 1536, 7168, 64, 8, 24),
            (64, 1536, 7168, 64, 64, 24),
            (1, 24_576, 1536, 128, 8, 132),
            (9, 7168, 16_384, 64, 16, 112),
            (300, 36_864, 7168, 128, 128, 132),
        ] {
            let config = config(m, n, k, Epilogue::Store).unwrap();
            let kernel = FP8_GEMM_KERNELS[config.kernel];
            assert_eq!((kernel.rows(), kernel.tile_tokens), (rows, tile), "{m} {n} {k}");
            assert_eq!(config.blocks, blocks, "{m} {n} {k}");
        }
    }

    #[test]
    fn all_tokens_are_in_tiles_and_rings_fit() {
        for m in 1..=300 {
            for n in [8, 576, 4096, 36_864] {
                let config = config(m, n, 7168, Epilogue::AddF32).unwrap();
                let tile = FP8_GEMM_KERNELS[config.kernel].tile_tokens;
                assert!(config.tiles * tile >= m && (config.tiles - 1) * tile < m, "{config:?}");
                assert!(config.stages >= 2 && config.shared_bytes <= 227 << 10, "{config:?}");
            }
        }
    }

    #[test]
    fn other_cards_and_odd_sizes_are_for_other_kernels() {
        let shape = GemmShape { m: 1, n: 512, k: 512, epilogue: Epilogue::Store };
        let a100 = Chip { target: Target::Sm80, ..H200 };
        assert_eq!(fp8_gemm_config(&shape, &a100), None);
        assert_eq!(config(1, 512, 508, Epilogue::Store), None);
        assert_eq!(config(1, 520, 512, Epilogue::Glu), None);
        assert_eq!(config(1, 512, 512, Epilogue::LmHead), None);
        assert!(config(1, 515, 512, Epilogue::Store).is_some());
    }
}

//! Which `moe_gemm_sm90` kernel (`cuda/moe_gemm_sm90.cu`) multiplies with experts on Hopper, and
//! how it is launched.
//!
//! Pure, and from the mean number of tokens of an expert: what each really gets, the device alone
//! knows. A tile of twice the mean takes most experts in one piece; measured on an H200 for
//! gpt-oss-20b, Qwen3-30B-A3B and DeepSeek-V2-Lite (`bench/moe_gemm.cu`).

use crate::Target;
use crate::chip::Chip;
use crate::list::{self, Kernel};
use crate::moe_params::MoeGemmSm90Params;

/// Positions of a tile, kernel by kernel.
pub const MOE_TILE_TOKENS: [u32; 6] = [8, 16, 32, 64, 128, 256];

/// Warpgroups that multiply, 64 rows of weights each.
const WARPGROUPS: u32 = 2;
/// Rows of weights of a block.
pub const MOE_GEMM_ROWS: u32 = 64 * WARPGROUPS;
/// Elements of k of a slice.
pub const MOE_GEMM_SLICE: u32 = 64;

/// What a block may take of a Hopper multiprocessor's shared memory.
const SHARED_BYTES_MAX: u32 = 227 * 1024;
const HEADER_BYTES: u32 = 1024;
const STAGES_MAX: u32 = 16;

/// The grouped gemms of experts with dense weights, by the places of
/// [`MOE_TILE_TOKENS`]: plain, and of gate and up.
pub const MOE_GEMM_SM90_DENSE: [[Kernel<MoeGemmSm90Params>; 2]; 6] = [
    [list::MOE_GEMM_SM90_N8_DENSE, list::MOE_GEMM_SM90_N8_DENSE_GLU],
    [list::MOE_GEMM_SM90_N16_DENSE, list::MOE_GEMM_SM90_N16_DENSE_GLU],
    [list::MOE_GEMM_SM90_N32_DENSE, list::MOE_GEMM_SM90_N32_DENSE_GLU],
    [list::MOE_GEMM_SM90_N64_DENSE, list::MOE_GEMM_SM90_N64_DENSE_GLU],
    [list::MOE_GEMM_SM90_N128_DENSE, list::MOE_GEMM_SM90_N128_DENSE_GLU],
    [list::MOE_GEMM_SM90_N256_DENSE, list::MOE_GEMM_SM90_N256_DENSE_GLU],
];

/// The same with weights in MXFP4.
pub const MOE_GEMM_SM90_MXFP4: [[Kernel<MoeGemmSm90Params>; 2]; 6] = [
    [list::MOE_GEMM_SM90_N8_MXFP4, list::MOE_GEMM_SM90_N8_MXFP4_GLU],
    [list::MOE_GEMM_SM90_N16_MXFP4, list::MOE_GEMM_SM90_N16_MXFP4_GLU],
    [list::MOE_GEMM_SM90_N32_MXFP4, list::MOE_GEMM_SM90_N32_MXFP4_GLU],
    [list::MOE_GEMM_SM90_N64_MXFP4, list::MOE_GEMM_SM90_N64_MXFP4_GLU],
    [list::MOE_GEMM_SM90_N128_MXFP4, list::MOE_GEMM_SM90_N128_MXFP4_GLU],
    [list::MOE_GEMM_SM90_N256_MXFP4, list::MOE_GEMM_SM90_N256_MXFP4_GLU],
];

/// How experts' weights lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoeWeights {
    /// Rows of bf16 or f16.
    Dense,
    /// Strips of `cuda/packed_weights.cuh`, for products in bf16.
    Mxfp4,
    /// Likewise.
    Fp8,
}

impl MoeWeights {
    /// Slices of a stage of each kernel, as `cuda/moe_gemm_sm90.cu` has them.
    const fn slices(self) -> &'static [u32] {
        match self {
            Self::Dense => &[2, 2, 2, 2, 2, 1],
            Self::Mxfp4 => &[4, 4, 4, 4, 2, 2],
            // No tile of 256: a slab's sums take registers besides.
            Self::Fp8 => &[2; 5],
        }
    }

    /// Bytes of a slice of one warpgroup's rows.
    pub(crate) const fn slice_bytes(self) -> u32 {
        match self {
            Self::Dense => 64 * 128,
            Self::Mxfp4 => 8 * (64 * 4 + 16),
            Self::Fp8 => 8 * (128 * 4 + 16),
        }
    }
}

/// Experts and the tokens of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoeGemmShape {
    /// Tokens, padding included.
    pub tokens: u32,
    /// Experts of a token.
    pub top_k: u32,
    /// Experts of all ranks.
    pub experts: u32,
    /// Inputs of gate and up, outputs of down.
    pub hidden: u32,
    /// Outputs of gate and of up, inputs of down.
    pub inner: u32,
}

/// How both grouped gemms of a step are launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoeGemmConfig {
    /// Place in [`MOE_TILE_TOKENS`].
    pub kernel: usize,
    /// Positions of a tile.
    pub tile_tokens: u32,
    /// Slices of a stage: the box of packed weights is as many.
    pub slices: u32,
    /// Stages of the ring.
    pub stages: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

/// Stages of a ring whose stages have so many bytes, and a block's dynamic shared memory.
pub(crate) fn ring(stage_bytes: u32) -> (u32, u32) {
    let stage_bytes = stage_bytes.next_multiple_of(1024);
    let stages = ((SHARED_BYTES_MAX - HEADER_BYTES) / stage_bytes).min(STAGES_MAX);
    (stages, HEADER_BYTES + stages * stage_bytes)
}

/// The config for a step; `None` where no kernel of this kind takes it.
#[must_use]
pub fn moe_gemm_config(
    shape: &MoeGemmShape,
    weights: MoeWeights,
    chip: &Chip,
) -> Option<MoeGemmConfig> {
    let MoeGemmShape { tokens, top_k, experts, hidden, inner } = *shape;
    // Rows of x are copied in pieces of 16 bytes, and gate and up take turns by eight rows.
    let aligned = hidden.is_multiple_of(8) && inner.is_multiple_of(8);
    if chip.target != Target::Sm90a || !aligned || hidden == 0 || inner == 0 || experts == 0 {
        return None;
    }
    let twice_the_mean = (2 * u64::from(tokens) * u64::from(top_k)).div_ceil(experts.into());
    let enough = |tile: &u32| u64::from(*tile) >= twice_the_mean;
    let tiles = &MOE_TILE_TOKENS[..weights.slices().len()];
    let kernel = tiles.iter().position(enough).unwrap_or(tiles.len() - 1);
    let (tile_tokens, slices) = (tiles[kernel], weights.slices()[kernel]);
    let (stages, shared_bytes) =
        ring(slices * (tile_tokens * 128 + WARPGROUPS * weights.slice_bytes()));
    Some(MoeGemmConfig { kernel, tile_tokens, slices, stages, shared_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    const H200: Chip =
        Chip { target: Target::Sm90a, multiprocessors: 132, shared_bytes_max: 227 << 10 };
    const GPT_OSS: MoeGemmShape =
        MoeGemmShape { tokens: 1, top_k: 4, experts: 32, hidden: 2880, inner: 2880 };

    #[test]
    fn tiles_take_twice_the_mean() {
        for (tokens, tile) in
            [(1, 8), (32, 8), (33, 16), (64, 16), (128, 32), (256, 64), (1024, 256), (8192, 256)]
        {
            let shape = MoeGemmShape { tokens, ..GPT_OSS };
            let config = moe_gemm_config(&shape, MoeWeights::Mxfp4, &H200).unwrap();
            assert_eq!(config.tile_tokens, tile, "{tokens}");
        }
    }

    #[test]
    fn rings_fit_and_have_two_stages_at_least() {
        for weights in [MoeWeights::Dense, MoeWeights::Mxfp4, MoeWeights::Fp8] {
            for tokens in [1, 64, 100, 200, 400, 1000, 16_384] {
                let shape = MoeGemmShape { tokens, ..GPT_OSS };
                let config = moe_gemm_config(&shape, weights, &H200).unwrap();
                assert!((2..=STAGES_MAX).contains(&config.stages), "{config:?}");
                assert!(config.shared_bytes <= SHARED_BYTES_MAX, "{config:?}");
            }
        }
    }

    #[test]
    fn other_cards_and_odd_sizes_are_for_other_kernels() {
        let a100 = Chip { target: Target::Sm80, ..H200 };
        assert_eq!(moe_gemm_config(&GPT_OSS, MoeWeights::Dense, &a100), None);
        for (hidden, inner) in [(2884, 2880), (2880, 2884), (0, 8)] {
            let shape = MoeGemmShape { hidden, inner, ..GPT_OSS };
            assert_eq!(moe_gemm_config(&shape, MoeWeights::Dense, &H200), None);
        }
    }
}

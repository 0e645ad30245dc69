//! Which `moe_gemm_sm90` kernel (`cuda/moe_gemm_sm90.cu`) multiplies with experts on Hopper, and
//! how it is launched.
//!
//! Pure, and from the mean number of tokens of an expert: what each really gets, the device alone
//! knows. A tile of twice the mean takes most experts in one piece; measured on an H200 for
//! gpt-oss-20b, Qwen3-30B-A3B and DeepSeek-V2-Lite (`bench/moe_gemm.cu`).

use crate::Target;
use crate::chip::Chip;

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

/// How experts' weights lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoeWeights {
    /// Rows of bf16 or f16.
    Dense,
    /// Strips of `cuda/packed_weights.cuh`, for products in bf16.
    Mxfp4,
}

impl MoeWeights {
    /// Slices of a stage of each kernel, as `cuda/moe_gemm_sm90.cu` has them.
    const fn slices(self) -> [u32; 6] {
        match self {
            Self::Dense => [2, 2, 2, 2, 2, 1],
            Self::Mxfp4 => [4, 4, 4, 4, 2, 2],
        }
    }

    /// Bytes of a slice of one warpgroup's rows.
    const fn slice_bytes(self) -> u32 {
        match self {
            Self::Dense => 64 * 128,
            Self::Mxfp4 => 8 * (64 * 4 + 16),
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
    let kernel = MOE_TILE_TOKENS.iter().position(enough).unwrap_or(MOE_TILE_TOKENS.len() - 1);
    let (tile_tokens, slices) = (MOE_TILE_TOKENS[kernel], weights.slices()[kernel]);
    let stage = slices * (tile_tokens * 128 + WARPGROUPS * weights.slice_bytes());
    let stage_bytes = stage.next_multiple_of(1024);
    let stages = ((SHARED_BYTES_MAX - HEADER_BYTES) / stage_bytes).min(STAGES_MAX);
    let shared_bytes = HEADER_BYTES + stages * stage_bytes;
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
        for weights in [MoeWeights::Dense, MoeWeights::Mxfp4] {
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

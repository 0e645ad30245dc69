//! Gemms with weights in FP8: on Hopper `moe_gemm_fp8_sm90`, with every tile, of one block's rows
//! and of more, elsewhere and in half precision the reference kernels.

use binfer_kernels::Target;
use binfer_kernels::chip::Chip;
use binfer_kernels::fp8_gemm::{FP8_GEMM_KERNELS, fp8_gemm_config};
use binfer_kernels::gemm::{Epilogue, GemmShape};
use binfer_shard::DType;
use binfer_shard::spec::ActivationFn;

use super::gemms::{Case, check_linear_out, check_norm_linear};
use super::{Half, for_halves, is_sanitized};
use crate::backend::StepMode;
use crate::backend::cuda::formats::WeightFormat;
use crate::backend::cuda::formats::packed::PackedFormat;
use crate::backend::cuda::gemm::config::{GemmConfig, gemm_config};
use crate::backend::cuda::gemm::desc::GemmDesc;

const H200: Chip =
    Chip { target: Target::Sm90a, multiprocessors: 132, shared_bytes_max: 227 << 10 };

/// Inputs and outputs: one block and few rows, a number of blocks and no whole tile of rows, more
/// pieces of work than blocks.
const SHAPES: [(usize, usize); 4] = [(128, 24), (1152, 328), (384, 8456), (256, 17_032)];
/// Around every tile; two tiles and more, and a band of eight.
const TOKENS: [usize; 14] = [1, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 256, 300, 1100];

/// Every shape of few outputs meets every number of tokens, a large one some.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (index, tokens) in TOKENS.into_iter().enumerate() {
        for (place, (cols, outs)) in SHAPES.into_iter().enumerate() {
            let is_large = outs > 1000;
            let is_some = (index + place).is_multiple_of(2) && tokens < 300;
            let has_time = !is_sanitized() || (place == 1 && tokens <= 300);
            if has_time && (!is_large || is_some) {
                cases.push(Case { tokens, cols, outs, is_decode: tokens < 64, aligned: true });
            }
        }
    }
    cases
}

#[test]
fn fp8_gemms_behind_a_norm_equal_their_oracle() {
    for_halves(|rig| {
        for (index, case) in cases().into_iter().enumerate() {
            rig.begin(index as u64 + 1);
            check_norm_linear(rig, case, DType::FP8_BLOCK, None);
            check_norm_linear(rig, case, DType::FP8_BLOCK, Some(ActivationFn::Silu));
        }
    });
}

#[test]
fn fp8_gemms_add_to_the_residual() {
    for_halves(|rig| {
        for (index, case) in cases().into_iter().enumerate() {
            rig.begin(index as u64 + 1);
            check_linear_out(rig, case, DType::FP8_BLOCK);
        }
    });
}

/// On Hopper, which CI does not need: plans are arithmetic. Under a sanitizer there are fewer
/// cases.
#[test]
fn cases_meet_every_fp8_gemm() {
    if is_sanitized() {
        return;
    }
    for epilogue in [Epilogue::Store, Epilogue::Glu, Epilogue::AddF32] {
        let configs: Vec<_> = cases()
            .into_iter()
            .filter_map(|Case { tokens, cols, outs, .. }| {
                let n = (if epilogue == Epilogue::Glu { 2 } else { 1 }) * outs as u32;
                let shape = GemmShape { m: tokens as u32, n, k: cols as u32, epilogue };
                fp8_gemm_config(&shape, &H200)
            })
            .collect();
        for (index, kernel) in FP8_GEMM_KERNELS.iter().enumerate() {
            let is_met = configs.iter().any(|config| config.kernel == index);
            assert!(is_met, "{epilogue:?}: no case has {kernel:?}");
        }
        assert!(configs.iter().any(|config| config.tiles > 8), "no case has bands");
    }
}

/// Of DeepSeek-V3: queries down, what the cache keeps, out, gate and up of a dense layer.
#[test]
fn fp8_gemms_of_published_models_are_fast_on_hopper_alone() {
    let desc = |(n, k), m, half| GemmDesc {
        shape: GemmShape { m, n, k, epilogue: Epilogue::Store },
        half,
        format: WeightFormat::Packed(PackedFormat::Fp8),
        weight_stride: k,
        out_stride: n,
        x_alignment: 256,
        weight_alignment: 256,
        out_alignment: 256,
    };
    for shape in [(1536, 7168), (576, 7168), (7168, 16_384), (36_864, 7168), (7168, 18_432)] {
        for m in [1, 64, 257, 8192] {
            let config = |half, target| {
                let chip = Chip { target, ..H200 };
                gemm_config(&desc(shape, m, half), &chip, StepMode::Eager)
            };
            let fast = config(Half::Bf16, Target::Sm90a);
            assert!(matches!(fast, GemmConfig::Fp8(_)), "{shape:?}, {m}: {fast:?}");
            assert_eq!(config(Half::F16, Target::Sm90a), GemmConfig::Reference);
            assert_eq!(config(Half::Bf16, Target::Sm80), GemmConfig::Reference);
        }
    }
}

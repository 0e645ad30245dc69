//! Which kernel multiplies: chosen from sizes, card and mode alone, before anything is launched.
//!
//! Few tokens go to kernels of our own (`skinny_gemm_sm90` on Hopper, `stream_k_gemm` elsewhere),
//! many to cuBLASLt, odd shapes to the reference kernel; weights in FP8 have kernels of their own
//! on Hopper. Pure: `tests/choices.rs` compares what is chosen for published models with a table.

use binfer_kernels::Target;
use binfer_kernels::chip::Chip;
use binfer_kernels::fp8_gemm::{Fp8GemmConfig, fp8_gemm_config};
use binfer_kernels::gemm::{Epilogue, GemmShape};
use binfer_kernels::skinny_gemm::{
    ROW_PARTIALS_MAX, SKINNY_GEMM_KERNELS, SKINNY_GEMM_M_MAX, SkinnyGemmConfig, skinny_gemm_config,
};
use binfer_kernels::stream_k_gemm::{StreamKConfig, stream_k_config};

use super::desc::GemmDesc;
use crate::backend::StepMode;
use crate::backend::cuda::formats::WeightFormat;
use crate::backend::cuda::formats::half::Half;
use crate::backend::cuda::formats::packed::PackedFormat;

/// Fewest tokens that cuBLASLt multiplies.
const LIBRARY_M_MIN: u32 = 32;
/// Most tokens of a stream-K gemm in a step that is launched kernel by kernel: with more, cuBLASLt
/// is faster.
const EAGER_STREAM_K_M_MAX: u32 = 64;
/// Elements of which sizes and strides must be multiples for cuBLASLt.
const LIBRARY_ELEMENTS: u32 = 8;
/// Bytes of which addresses must be multiples for cuBLASLt.
const LIBRARY_ALIGNMENT: u32 = 256;
/// Bytes of which operands must be multiples for kernels that copy them in 16-byte pieces.
const COPY_ALIGNMENT: u32 = 16;
/// Elements of 16 bytes, of which a weight's rows must be made for `stream_k_gemm`.
const STREAM_K_ELEMENTS: u32 = 8;

/// The kernel of a gemm, and how it is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) enum GemmConfig {
    /// `skinny_gemm_sm90`: weights streamed once, through the copy engine and wgmma.
    Skinny(SkinnyGemmConfig),
    /// `moe_gemm_fp8_sm90`: weights in FP8, through the copy engine and wgmma.
    Fp8(Fp8GemmConfig),
    /// `stream_k_gemm`: weights streamed once, through mma.sync.
    StreamK(StreamKConfig),
    /// cuBLASLt.
    Library,
    /// `gemm_reference`: any shape, slowly.
    Reference,
}

/// Chooses a gemm's kernel. In `StepMode::Graph` only kernels of our own are chosen.
pub(in crate::backend::cuda) fn gemm_config(
    desc: &GemmDesc,
    chip: &Chip,
    mode: StepMode,
) -> GemmConfig {
    match desc.format {
        WeightFormat::Dense(_) => dense_config(desc, chip, mode),
        WeightFormat::Packed(format) => {
            packed_config(desc, format, chip).map_or(GemmConfig::Reference, GemmConfig::Fp8)
        }
    }
}

fn packed_config(desc: &GemmDesc, format: PackedFormat, chip: &Chip) -> Option<Fp8GemmConfig> {
    let aligned = desc.x_alignment.min(desc.weight_alignment) >= COPY_ALIGNMENT;
    if (format, desc.half) != (PackedFormat::Fp8, Half::Bf16) || !aligned {
        return None;
    }
    fp8_gemm_config(&desc.shape, chip)
}

fn dense_config(desc: &GemmDesc, chip: &Chip, mode: StepMode) -> GemmConfig {
    if let Some(config) = skinny_config(desc, chip) {
        return GemmConfig::Skinny(config);
    }
    let few = mode == StepMode::Graph || desc.shape.m <= EAGER_STREAM_K_M_MAX;
    if few && let Some(config) = stream_k(desc, chip) {
        return GemmConfig::StreamK(config);
    }
    let many = mode == StepMode::Eager && desc.shape.m >= LIBRARY_M_MIN;
    if many && library_takes(desc) { GemmConfig::Library } else { GemmConfig::Reference }
}

fn skinny_config(desc: &GemmDesc, chip: &Chip) -> Option<SkinnyGemmConfig> {
    if !matches!(desc.format, WeightFormat::Dense(_)) {
        return None;
    }
    let is_lm_head = desc.shape.epilogue == Epilogue::LmHead;
    let aligned = desc.x_alignment.min(desc.weight_alignment) >= COPY_ALIGNMENT
        && desc.out_alignment >= 4
        && (desc.out_stride.is_multiple_of(2) || is_lm_head);
    if chip.target != Target::Sm90a || !aligned {
        return None;
    }
    skinny_gemm_config(&desc.shape, chip.multiprocessors)
}

fn stream_k(desc: &GemmDesc, chip: &Chip) -> Option<StreamKConfig> {
    let aligned = desc.x_alignment.min(desc.weight_alignment) >= COPY_ALIGNMENT
        && desc.weight_stride.is_multiple_of(STREAM_K_ELEMENTS);
    if chip.target == Target::Sm90a || !aligned {
        return None;
    }
    stream_k_config(&desc.shape, chip)
}

/// Whether cuBLASLt multiplies such operands, whatever their tokens.
pub(super) fn library_takes(desc: &GemmDesc) -> bool {
    let GemmShape { n, k, .. } = desc.shape;
    matches!(desc.format, WeightFormat::Dense(_))
        && [n, k, desc.out_stride].iter().all(|size| size.is_multiple_of(LIBRARY_ELEMENTS))
        && desc.x_alignment.min(desc.out_alignment) >= LIBRARY_ALIGNMENT
}

/// Fewest tokens of a gemm of usual shape that cuBLASLt multiplies on this chip.
pub(super) fn library_m_min(chip: &Chip) -> u32 {
    1 + if chip.target == Target::Sm90a { SKINNY_GEMM_M_MAX } else { EAGER_STREAM_K_M_MAX }
}

/// The kernel of the head's gemm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) enum LmHeadConfig {
    /// `lm_head_gemm`: statistics of logits, and only those logits that something reads.
    Statistics(SkinnyGemmConfig),
    /// All logits, and nothing else.
    Logits(GemmConfig),
}

/// Chooses the kernel of the head's gemm, `desc` being that of all logits. Ranks of several gather
/// logits and sample from those, so they have no use for statistics.
pub(in crate::backend::cuda) fn lm_head_config(
    desc: &GemmDesc,
    chip: &Chip,
    mode: StepMode,
    is_sharded: bool,
) -> LmHeadConfig {
    let shape = GemmShape { epilogue: Epilogue::LmHead, ..desc.shape };
    let config = skinny_config(&GemmDesc { shape, ..*desc }, chip);
    match config.filter(|config| config.blocks <= ROW_PARTIALS_MAX && !is_sharded) {
        Some(config) => LmHeadConfig::Statistics(config),
        None => LmHeadConfig::Logits(gemm_config(desc, chip, mode)),
    }
}

/// Two gemms that follow each other with a norm between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) struct GemmPairConfig {
    pub(in crate::backend::cuda) first: GemmConfig,
    pub(in crate::backend::cuda) second: GemmConfig,
    /// No kernel stands between them: each gemm does its share of the norm.
    pub(in crate::backend::cuda) fused_norm: Option<FusedNorm>,
}

/// A norm that two gemms share: the first scales rows and sums their squares, the second divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) struct FusedNorm {
    /// Sums of squares of a token, one of each block of the first gemm.
    pub(in crate::backend::cuda) partials: u32,
}

/// Chooses the kernels of two gemms with a norm between them, before the first one is launched.
pub(in crate::backend::cuda) fn gemm_pair_config(
    first: &GemmDesc,
    second: &GemmDesc,
    chip: &Chip,
    mode: StepMode,
) -> GemmPairConfig {
    let configs = [first, second].map(|desc| gemm_config(desc, chip, mode));
    let fused_norm = match configs {
        [GemmConfig::Skinny(a), GemmConfig::Skinny(b)] if fuses(first, &a, &b) => {
            Some(FusedNorm { partials: a.blocks })
        }
        _ => None,
    };
    let [first, second] = configs;
    GemmPairConfig { first, second, fused_norm }
}

/// Whether the norm between two skinny gemms is shared out among them. They are of one kernel,
/// which the second expects sums of squares from. Not in half precision: the first gemm stores rows
/// that are not yet divided by their length, and may be too large for it.
fn fuses(first: &GemmDesc, config: &SkinnyGemmConfig, second: &SkinnyGemmConfig) -> bool {
    SKINNY_GEMM_KERNELS[config.kernel].folds_norms()
        && config.kernel == second.kernel
        && first.shape.epilogue == Epilogue::AddF32
        && first.format == WeightFormat::Dense(Half::Bf16)
        && (config.rounds, first.out_stride) == (1, first.shape.n)
        && first.out_stride.is_multiple_of(2)
        && config.blocks <= ROW_PARTIALS_MAX
}

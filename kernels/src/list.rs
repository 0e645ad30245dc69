//! Every kernel that the backend launches, with the shape of its blocks.
//!
//! A [`Kernel`] knows the type of its parameters, so none can be launched with another's. Grids
//! follow from the arguments of an operation and are the worker's.

use std::marker::PhantomData;

use crate::attention_params::{
    AttentionParams, AttentionScheduleParams, DecodeAttentionParams, ExpandedAttentionParams,
    HeadGemmParams, LatentAttentionParams, LatentDecodeParams, LatentExpandParams,
    LatentPrefillParams, PrefillAttentionParams,
};
use crate::gemm_params::{
    EpilogueParams, LmHeadGemmParams, ReferenceGemmParams, SkinnyGemmParams, StreamKGemmParams,
};
use crate::latent_attention::{latent_pages_bytes, latent_tile_bytes};
use crate::moe_params::{
    MoeCombineParams, MoeGatherParams, MoeGemmParams, MoeGemmSm90Params, MoeRouteParams,
    MoeSortParams, RepackParams, SharedGateParams,
};
use crate::params::{
    ApplyParams, EmbedParams, FillParams, FinishParams, NormParams, RopeParams, StampParams,
};
use crate::rank_params::MergeLogitsParams;
use crate::sample_params::SampleParams;
use crate::stream_k_gemm::STREAM_K_KERNELS;

/// The element types that a kernel exists for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Types {
    /// It knows none.
    None,
    /// `name_bf16` and `name_f16`.
    Halves,
}

/// What is known of a kernel without its parameters.
#[derive(Clone, Copy, Debug)]
pub struct KernelInfo {
    /// Stem of its source.
    pub file: &'static str,
    /// Its name, without the type.
    pub name: &'static str,
    /// The element types that it exists for.
    pub types: Types,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory asked for at launch, where a launch does not ask for less.
    pub shared_bytes: u32,
    /// Bytes of its parameters.
    pub param_bytes: usize,
}

impl KernelInfo {
    /// Exported names.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        match self.types {
            Types::None => vec![self.name.to_owned()],
            Types::Halves => ["bf16", "f16"].map(|t| format!("{}_{t}", self.name)).to_vec(),
        }
    }
}

/// A kernel that takes `P`.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<P> {
    /// Its place in [`ALL`].
    pub index: usize,
    params: PhantomData<fn(P)>,
}

/// Declares the kernels and [`ALL`], which has them in the same order.
macro_rules! kernels {
    ($($konst:ident: $params:ty = $file:literal, $name:literal, $types:ident, $threads:expr, $shared:expr;)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "indices only")]
        enum Index { $($konst),* }
        $(
            #[doc = concat!("See `cuda/", $file, ".cu`.")]
            pub const $konst: Kernel<$params> =
                Kernel { index: Index::$konst as usize, params: PhantomData };
        )*
        /// All kernels, each at its index.
        pub const ALL: &[KernelInfo] = &[$(KernelInfo {
            file: $file,
            name: $name,
            types: Types::$types,
            threads: $threads,
            shared_bytes: $shared,
            param_bytes: size_of::<$params>(),
        }),*];
    };
}

kernels! {
    APPLY: ApplyParams = "step", "apply", None, 64, 0;
    FINISH: FinishParams = "step", "finish", None, 128, 0;
    STAMP: StampParams = "step", "stamp", None, 32, 0;
    EMBED: EmbedParams = "rows", "embed", Halves, 256, 0;
    RMS_NORM: NormParams = "rows", "rms_norm", Halves, 256, 0;
    ROPE_TABLE: RopeParams = "rows", "rope_table", None, 128, 0;
    FILL: FillParams = "rows", "fill", Halves, 256, 0;
    FILL_F32: FillParams = "rows", "fill_f32", None, 256, 0;
    GEMM_REFERENCE: ReferenceGemmParams = "gemm_reference", "gemm_reference", Halves, 256, 0;
    GEMM_REFERENCE_GLU: ReferenceGemmParams = "gemm_reference", "gemm_reference_glu", Halves, 256, 0;
    GEMM_REFERENCE_ADD: ReferenceGemmParams = "gemm_reference", "gemm_reference_add", Halves, 256, 0;
    GEMM_REFERENCE_F32: ReferenceGemmParams = "gemm_reference", "gemm_reference_f32", Halves, 256, 0;
    GEMM_REFERENCE_MXFP4: ReferenceGemmParams = "gemm_reference", "gemm_reference_mxfp4", Halves, 256, 0;
    GEMM_REFERENCE_GLU_MXFP4: ReferenceGemmParams = "gemm_reference", "gemm_reference_glu_mxfp4", Halves, 256, 0;
    GEMM_REFERENCE_ADD_MXFP4: ReferenceGemmParams = "gemm_reference", "gemm_reference_add_mxfp4", Halves, 256, 0;
    GEMM_REFERENCE_F32_MXFP4: ReferenceGemmParams = "gemm_reference", "gemm_reference_f32_mxfp4", Halves, 256, 0;
    GEMM_REFERENCE_FP8: ReferenceGemmParams = "gemm_reference", "gemm_reference_fp8", Halves, 256, 0;
    GEMM_REFERENCE_GLU_FP8: ReferenceGemmParams = "gemm_reference", "gemm_reference_glu_fp8", Halves, 256, 0;
    GEMM_REFERENCE_ADD_FP8: ReferenceGemmParams = "gemm_reference", "gemm_reference_add_fp8", Halves, 256, 0;
    GEMM_REFERENCE_F32_FP8: ReferenceGemmParams = "gemm_reference", "gemm_reference_f32_fp8", Halves, 256, 0;
    BIAS: EpilogueParams = "gemm_reference", "bias", Halves, 256, 0;
    GLU: EpilogueParams = "gemm_reference", "glu", Halves, 256, 0;
    BIAS_RESIDUAL: EpilogueParams = "gemm_reference", "bias_residual", None, 256, 0;
    QKV_PREPARE: AttentionParams = "attention_reference", "qkv_prepare", Halves, 128, 0;
    ATTENTION_REFERENCE: AttentionParams = "attention_reference", "attention_reference", Halves, 128, 0;
    SAMPLE_TILES: SampleParams = "sample", "sample_tiles", None, 256, 0;
    SAMPLE_ROWS: SampleParams = "sample", "sample_rows", None, 512, 0;
    RMS_NORM_WIDE: NormParams = "wide_rows", "rms_norm_wide", Halves, 512, 0;
    GLU_WIDE: EpilogueParams = "wide_rows", "glu_wide", Halves, 256, 0;
    SKINNY_GEMM_N8S8: SkinnyGemmParams = "skinny_gemm_sm90", "skinny_gemm_sm90_n8s8", Halves, 160, BLOCK_BYTES;
    SKINNY_GEMM_N8S4: SkinnyGemmParams = "skinny_gemm_sm90", "skinny_gemm_sm90_n8s4", Halves, 160, BLOCK_BYTES;
    SKINNY_GEMM_N16S8: SkinnyGemmParams = "skinny_gemm_sm90", "skinny_gemm_sm90_n16s8", Halves, 160, BLOCK_BYTES;
    SKINNY_GEMM_N16S4: SkinnyGemmParams = "skinny_gemm_sm90", "skinny_gemm_sm90_n16s4", Halves, 160, BLOCK_BYTES;
    SKINNY_GEMM_N32: SkinnyGemmParams = "skinny_gemm_sm90", "skinny_gemm_sm90_n32", Halves, 160, BLOCK_BYTES;
    SKINNY_GEMM_N64: SkinnyGemmParams = "skinny_gemm_sm90", "skinny_gemm_sm90_n64", Halves, 160, BLOCK_BYTES;
    SKINNY_GEMM_N96: SkinnyGemmParams = "skinny_gemm_sm90", "skinny_gemm_sm90_n96", Halves, 512, BLOCK_BYTES;
    SKINNY_GEMM_N128: SkinnyGemmParams = "skinny_gemm_sm90", "skinny_gemm_sm90_n128", Halves, 512, BLOCK_BYTES;
    SKINNY_GEMM_N192: SkinnyGemmParams = "skinny_gemm_sm90", "skinny_gemm_sm90_n192", Halves, 512, BLOCK_BYTES;
    SKINNY_GEMM_N256: SkinnyGemmParams = "skinny_gemm_sm90", "skinny_gemm_sm90_n256", Halves, 512, BLOCK_BYTES;
    LM_HEAD_GEMM_N8: LmHeadGemmParams = "lm_head_gemm", "lm_head_gemm_n8s8", Halves, 160, BLOCK_BYTES;
    LM_HEAD_GEMM_N16: LmHeadGemmParams = "lm_head_gemm", "lm_head_gemm_n16s4", Halves, 160, BLOCK_BYTES;
    LM_HEAD_GEMM_N32: LmHeadGemmParams = "lm_head_gemm", "lm_head_gemm_n32", Halves, 160, BLOCK_BYTES;
    LM_HEAD_GEMM_N64: LmHeadGemmParams = "lm_head_gemm", "lm_head_gemm_n64", Halves, 160, BLOCK_BYTES;
    LM_HEAD_GEMM_N96: LmHeadGemmParams = "lm_head_gemm", "lm_head_gemm_n96", Halves, 512, BLOCK_BYTES;
    LM_HEAD_GEMM_N128: LmHeadGemmParams = "lm_head_gemm", "lm_head_gemm_n128", Halves, 512, BLOCK_BYTES;
    STREAM_K_GEMM_N8: StreamKGemmParams = "stream_k_gemm", "stream_k_gemm_n8", Halves, STREAM_K_KERNELS[0].threads, STREAM_K_KERNELS[0].shared_bytes();
    STREAM_K_GEMM_N16: StreamKGemmParams = "stream_k_gemm", "stream_k_gemm_n16", Halves, STREAM_K_KERNELS[1].threads, STREAM_K_KERNELS[1].shared_bytes();
    STREAM_K_GEMM_N32: StreamKGemmParams = "stream_k_gemm", "stream_k_gemm_n32", Halves, STREAM_K_KERNELS[2].threads, STREAM_K_KERNELS[2].shared_bytes();
    STREAM_K_GEMM_N64: StreamKGemmParams = "stream_k_gemm", "stream_k_gemm_n64", Halves, STREAM_K_KERNELS[3].threads, STREAM_K_KERNELS[3].shared_bytes();
    STREAM_K_GEMM_N128: StreamKGemmParams = "stream_k_gemm", "stream_k_gemm_n128", Halves, STREAM_K_KERNELS[4].threads, STREAM_K_KERNELS[4].shared_bytes();
    ATTENTION_SCHEDULE: AttentionScheduleParams = "attention_schedule", "attention_schedule", None, 1024, 0;
    DECODE_ATTENTION_D64: DecodeAttentionParams = "decode_attention", "decode_attention_d64", Halves, 128, decode_attention_bytes(64, 16, 1024);
    DECODE_ATTENTION_D128: DecodeAttentionParams = "decode_attention", "decode_attention_d128", Halves, 128, decode_attention_bytes(128, 16, 1024);
    PREFILL_PREPARE_D64: AttentionParams = "prefill_prepare", "prefill_prepare_d64", Halves, 256, 0;
    PREFILL_PREPARE_D128: AttentionParams = "prefill_prepare", "prefill_prepare_d128", Halves, 256, 0;
    PREFILL_ATTENTION_D64: PrefillAttentionParams = "prefill_attention_sm90", "prefill_attention_d64", Halves, 384, 147_632;
    PREFILL_ATTENTION_D128: PrefillAttentionParams = "prefill_attention_sm90", "prefill_attention_d128", Halves, 384, 163_936;
    PREFILL_ATTENTION_EXPANDED: ExpandedAttentionParams = "prefill_attention_sm90", "prefill_attention_expanded", Halves, 384, 213_088;
    MOE_ROUTE: MoeRouteParams = "moe_route", "moe_route", None, 128, 0;
    MOE_SORT: MoeSortParams = "moe_route", "moe_sort", None, 256, 0;
    MOE_GEMM_REFERENCE: MoeGemmParams = "moe_gemm_reference", "moe_gemm_reference", Halves, 256, 0;
    MOE_GEMM_REFERENCE_MXFP4: MoeGemmParams = "moe_gemm_reference", "moe_gemm_reference_mxfp4", Halves, 256, 0;
    MOE_GEMM_REFERENCE_FP8: MoeGemmParams = "moe_gemm_reference", "moe_gemm_reference_fp8", Halves, 256, 0;
    MOE_GEMM_REFERENCE_GLU: MoeGemmParams = "moe_gemm_reference", "moe_gemm_reference_glu", Halves, 256, 0;
    MOE_GEMM_REFERENCE_GLU_MXFP4: MoeGemmParams = "moe_gemm_reference", "moe_gemm_reference_glu_mxfp4", Halves, 256, 0;
    MOE_GEMM_REFERENCE_GLU_FP8: MoeGemmParams = "moe_gemm_reference", "moe_gemm_reference_glu_fp8", Halves, 256, 0;
    MOE_GEMM_SM90_N8_MXFP4: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n8_mxfp4", None, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N8_MXFP4_GLU: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n8_mxfp4_glu", None, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N16_MXFP4: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n16_mxfp4", None, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N16_MXFP4_GLU: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n16_mxfp4_glu", None, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N32_MXFP4: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n32_mxfp4", None, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N32_MXFP4_GLU: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n32_mxfp4_glu", None, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N64_MXFP4: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n64_mxfp4", None, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N64_MXFP4_GLU: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n64_mxfp4_glu", None, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N128_MXFP4: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n128_mxfp4", None, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N128_MXFP4_GLU: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n128_mxfp4_glu", None, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N256_MXFP4: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n256_mxfp4", None, 384, BLOCK_BYTES;
    MOE_GEMM_SM90_N256_MXFP4_GLU: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n256_mxfp4_glu", None, 384, BLOCK_BYTES;
    MOE_GEMM_SM90_N8_DENSE: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n8_dense", Halves, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N8_DENSE_GLU: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n8_dense_glu", Halves, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N16_DENSE: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n16_dense", Halves, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N16_DENSE_GLU: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n16_dense_glu", Halves, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N32_DENSE: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n32_dense", Halves, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N32_DENSE_GLU: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n32_dense_glu", Halves, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N64_DENSE: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n64_dense", Halves, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N64_DENSE_GLU: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n64_dense_glu", Halves, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N128_DENSE: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n128_dense", Halves, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N128_DENSE_GLU: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n128_dense_glu", Halves, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N256_DENSE: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n256_dense", Halves, 384, BLOCK_BYTES;
    MOE_GEMM_SM90_N256_DENSE_GLU: MoeGemmSm90Params = "moe_gemm_sm90", "moe_gemm_sm90_n256_dense_glu", Halves, 384, BLOCK_BYTES;
    MOE_GEMM_SM90_N8W1_FP8: MoeGemmSm90Params = "moe_gemm_fp8_sm90", "moe_gemm_sm90_n8w1_fp8", None, 160, BLOCK_BYTES;
    MOE_GEMM_SM90_N8W1_FP8_GLU: MoeGemmSm90Params = "moe_gemm_fp8_sm90", "moe_gemm_sm90_n8w1_fp8_glu", None, 160, BLOCK_BYTES;
    MOE_GEMM_SM90_N8W2_FP8: MoeGemmSm90Params = "moe_gemm_fp8_sm90", "moe_gemm_sm90_n8w2_fp8", None, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N8W2_FP8_GLU: MoeGemmSm90Params = "moe_gemm_fp8_sm90", "moe_gemm_sm90_n8w2_fp8_glu", None, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N16W1_FP8: MoeGemmSm90Params = "moe_gemm_fp8_sm90", "moe_gemm_sm90_n16w1_fp8", None, 160, BLOCK_BYTES;
    MOE_GEMM_SM90_N16W1_FP8_GLU: MoeGemmSm90Params = "moe_gemm_fp8_sm90", "moe_gemm_sm90_n16w1_fp8_glu", None, 160, BLOCK_BYTES;
    MOE_GEMM_SM90_N16W2_FP8: MoeGemmSm90Params = "moe_gemm_fp8_sm90", "moe_gemm_sm90_n16w2_fp8", None, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N16W2_FP8_GLU: MoeGemmSm90Params = "moe_gemm_fp8_sm90", "moe_gemm_sm90_n16w2_fp8_glu", None, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N32W1_FP8: MoeGemmSm90Params = "moe_gemm_fp8_sm90", "moe_gemm_sm90_n32w1_fp8", None, 160, BLOCK_BYTES;
    MOE_GEMM_SM90_N32W1_FP8_GLU: MoeGemmSm90Params = "moe_gemm_fp8_sm90", "moe_gemm_sm90_n32w1_fp8_glu", None, 160, BLOCK_BYTES;
    MOE_GEMM_SM90_N32W2_FP8: MoeGemmSm90Params = "moe_gemm_fp8_sm90", "moe_gemm_sm90_n32w2_fp8", None, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N32W2_FP8_GLU: MoeGemmSm90Params = "moe_gemm_fp8_sm90", "moe_gemm_sm90_n32w2_fp8_glu", None, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N64W1_FP8: MoeGemmSm90Params = "moe_gemm_fp8_sm90", "moe_gemm_sm90_n64w1_fp8", None, 160, BLOCK_BYTES;
    MOE_GEMM_SM90_N64W1_FP8_GLU: MoeGemmSm90Params = "moe_gemm_fp8_sm90", "moe_gemm_sm90_n64w1_fp8_glu", None, 160, BLOCK_BYTES;
    MOE_GEMM_SM90_N64W2_FP8: MoeGemmSm90Params = "moe_gemm_fp8_sm90", "moe_gemm_sm90_n64w2_fp8", None, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N64W2_FP8_GLU: MoeGemmSm90Params = "moe_gemm_fp8_sm90", "moe_gemm_sm90_n64w2_fp8_glu", None, 288, BLOCK_BYTES;
    MOE_GEMM_SM90_N128W2_FP8: MoeGemmSm90Params = "moe_gemm_fp8_sm90", "moe_gemm_sm90_n128w2_fp8", None, 384, BLOCK_BYTES;
    MOE_GEMM_SM90_N128W2_FP8_GLU: MoeGemmSm90Params = "moe_gemm_fp8_sm90", "moe_gemm_sm90_n128w2_fp8_glu", None, 384, BLOCK_BYTES;
    MOE_GATHER: MoeGatherParams = "moe_combine", "moe_gather", Halves, 128, 0;
    MOE_COMBINE: MoeCombineParams = "moe_combine", "moe_combine", Halves, 256, 0;
    MOE_SHARED_GATE: SharedGateParams = "moe_combine", "moe_shared_gate", Halves, 256, 0;
    REPACK_MXFP4: RepackParams = "repack", "repack_mxfp4", None, 64, 0;
    REPACK_FP8: RepackParams = "repack", "repack_fp8", None, 64, 0;
    LATENT_PREPARE: LatentAttentionParams = "latent_attention_reference", "latent_prepare", Halves, 256, 0;
    LATENT_PREPARE_IN_PLACE: LatentAttentionParams = "latent_attention_reference", "latent_prepare_in_place", Halves, 256, 0;
    LATENT_ATTENTION_REFERENCE: LatentAttentionParams = "latent_attention_reference", "latent_attention_reference", Halves, 128, 0;
    LATENT_DECODE: LatentDecodeParams = "latent_decode", "latent_decode", Halves, 256, latent_tile_bytes(1, 2) + latent_pages_bytes(1024);
    LATENT_PREFILL_T1: LatentPrefillParams = "latent_prefill", "latent_prefill_t1", Halves, 256, latent_tile_bytes(1, 2);
    LATENT_PREFILL_T4: LatentPrefillParams = "latent_prefill", "latent_prefill_t4", Halves, 256, latent_tile_bytes(4, 2);
    LATENT_EXPAND: LatentExpandParams = "latent_expand", "latent_expand", Halves, 128, 73_728;
    HEAD_GEMM: HeadGemmParams = "head_gemm", "head_gemm", Halves, 128, 0;
    MERGE_LOGITS: MergeLogitsParams = "ranks", "merge_logits", None, 256, 0;
}

/// What a block may take of a Hopper multiprocessor's shared memory.
const BLOCK_BYTES: u32 = 227 << 10;

/// The skinny gemms, as [`crate::skinny_gemm::SKINNY_GEMM_KERNELS`] has them.
pub const SKINNY_GEMM: [Kernel<SkinnyGemmParams>; 10] = [
    SKINNY_GEMM_N8S8,
    SKINNY_GEMM_N8S4,
    SKINNY_GEMM_N16S8,
    SKINNY_GEMM_N16S4,
    SKINNY_GEMM_N32,
    SKINNY_GEMM_N64,
    SKINNY_GEMM_N96,
    SKINNY_GEMM_N128,
    SKINNY_GEMM_N192,
    SKINNY_GEMM_N256,
];

/// The skinny gemms that make statistics of logits, where there is one.
pub const LM_HEAD_GEMM: [Option<Kernel<LmHeadGemmParams>>; 10] = [
    Some(LM_HEAD_GEMM_N8),
    None,
    None,
    Some(LM_HEAD_GEMM_N16),
    Some(LM_HEAD_GEMM_N32),
    Some(LM_HEAD_GEMM_N64),
    Some(LM_HEAD_GEMM_N96),
    Some(LM_HEAD_GEMM_N128),
    None,
    None,
];

/// The stream-K gemms, as [`STREAM_K_KERNELS`] has them.
pub const STREAM_K_GEMM: [Kernel<StreamKGemmParams>; 5] =
    [STREAM_K_GEMM_N8, STREAM_K_GEMM_N16, STREAM_K_GEMM_N32, STREAM_K_GEMM_N64, STREAM_K_GEMM_N128];

/// Query heads of a KV head that `decode_attention` takes at most.
pub const DECODE_GQA_GROUP_MAX: u32 = 16;
/// Rows that `decode_attention` and `attention_schedule` take at most.
pub const DECODE_ROWS_MAX: u32 = 1024;

/// Shared memory of `decode_attention`: rings of pages, queries, and the sums of `gqa_group` query
/// heads; `Layout` in `cuda/decode_attention.cu`.
#[must_use]
pub const fn decode_attention_bytes(head_dim: u32, gqa_group: u32, rows: u32) -> u32 {
    let stages = if head_dim == 64 { 3 } else { 2 };
    let tile = 16 * head_dim * 2;
    let (rings, queries, states) = (4 * stages * 2 * tile, tile, 4 * 16 * 8);
    rings + queries + states + 4 * gqa_group * (head_dim + 8) * 4 + (rows + 1) * 4
}

/// Logits of one block of `merge_logits`.
pub const MERGE_LOGITS_EACH: u32 = 1024;
/// Logits of one tile of `sample_tiles`.
pub const SAMPLE_TILE_LOGITS: u32 = 4096;
/// Elements of a head that `attention_reference` and `qkv_prepare` take at most.
pub const REFERENCE_HEAD_DIM_MAX: usize = 256;
/// Tokens of a tile of `head_gemm`, and features of a head.
pub const HEAD_GEMM_TILE: [u32; 2] = [64, 32];
/// Tokens and features of a tile of the reference gemms.
pub const GEMM_REFERENCE_TILE: u32 = 64;

//! Every kernel that the backend launches, with the shape of its blocks.
//!
//! A [`Kernel`] knows the type of its parameters, so none can be launched with another's. Grids
//! follow from the arguments of an operation and are the worker's.

use std::marker::PhantomData;

use crate::fast_params::{
    AttendPlanParams, DecodeAttendParams, HeadProductParams, NarrowProductParams,
    PrefillAttendParams, StreamProductParams,
};
use crate::params::{
    ApplyParams, AttendParams, EmbedParams, EpilogueParams, FillParams, FinishParams, NormParams,
    ProductParams, RopeParams, StampParams,
};
use crate::rank_params::MergeLogitsParams;
use crate::sample_params::SampleParams;
use crate::stream_k_gemm::STREAM_K_KERNELS;

/// For which element types a kernel exists.
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
    /// For which types it exists.
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
    PRODUCT: ProductParams = "product", "product", Halves, 256, 0;
    PRODUCT_GLU: ProductParams = "product", "product_glu", Halves, 256, 0;
    PRODUCT_RESIDUAL: ProductParams = "product", "product_residual", Halves, 256, 0;
    PRODUCT_LOGITS: ProductParams = "product", "product_logits", Halves, 256, 0;
    BIAS: EpilogueParams = "product", "bias", Halves, 256, 0;
    GLU: EpilogueParams = "product", "glu", Halves, 256, 0;
    BIAS_RESIDUAL: EpilogueParams = "product", "bias_residual", None, 256, 0;
    QKV_PREPARE: AttendParams = "attend", "qkv_prepare", Halves, 128, 0;
    ATTEND: AttendParams = "attend", "attend", Halves, 128, 0;
    SAMPLE_TILES: SampleParams = "sample", "sample_tiles", None, 256, 0;
    SAMPLE_ROWS: SampleParams = "sample", "sample_rows", None, 512, 0;
    RMS_NORM_WIDE: NormParams = "wide_rows", "rms_norm_wide", Halves, 512, 0;
    GLU_WIDE: EpilogueParams = "wide_rows", "glu_wide", Halves, 256, 0;
    STREAM_N8S8: StreamProductParams = "stream_product", "stream_product_n8s8", Halves, 160, BLOCK_BYTES;
    STREAM_N8S4: StreamProductParams = "stream_product", "stream_product_n8s4", Halves, 160, BLOCK_BYTES;
    STREAM_N16S8: StreamProductParams = "stream_product", "stream_product_n16s8", Halves, 160, BLOCK_BYTES;
    STREAM_N16S4: StreamProductParams = "stream_product", "stream_product_n16s4", Halves, 160, BLOCK_BYTES;
    STREAM_N32: StreamProductParams = "stream_product", "stream_product_n32", Halves, 160, BLOCK_BYTES;
    STREAM_N64: StreamProductParams = "stream_product", "stream_product_n64", Halves, 160, BLOCK_BYTES;
    STREAM_N96: StreamProductParams = "stream_product", "stream_product_n96", Halves, 512, BLOCK_BYTES;
    STREAM_N128: StreamProductParams = "stream_product", "stream_product_n128", Halves, 512, BLOCK_BYTES;
    STREAM_N192: StreamProductParams = "stream_product", "stream_product_n192", Halves, 512, BLOCK_BYTES;
    STREAM_N256: StreamProductParams = "stream_product", "stream_product_n256", Halves, 512, BLOCK_BYTES;
    HEAD_N8: HeadProductParams = "head_product", "head_product_n8s8", Halves, 160, BLOCK_BYTES;
    HEAD_N16: HeadProductParams = "head_product", "head_product_n16s4", Halves, 160, BLOCK_BYTES;
    HEAD_N32: HeadProductParams = "head_product", "head_product_n32", Halves, 160, BLOCK_BYTES;
    HEAD_N64: HeadProductParams = "head_product", "head_product_n64", Halves, 160, BLOCK_BYTES;
    HEAD_N96: HeadProductParams = "head_product", "head_product_n96", Halves, 512, BLOCK_BYTES;
    HEAD_N128: HeadProductParams = "head_product", "head_product_n128", Halves, 512, BLOCK_BYTES;
    NARROW_N8: NarrowProductParams = "narrow_product", "narrow_product_n8", Halves, STREAM_K_KERNELS[0].threads, STREAM_K_KERNELS[0].shared_bytes();
    NARROW_N16: NarrowProductParams = "narrow_product", "narrow_product_n16", Halves, STREAM_K_KERNELS[1].threads, STREAM_K_KERNELS[1].shared_bytes();
    NARROW_N32: NarrowProductParams = "narrow_product", "narrow_product_n32", Halves, STREAM_K_KERNELS[2].threads, STREAM_K_KERNELS[2].shared_bytes();
    NARROW_N64: NarrowProductParams = "narrow_product", "narrow_product_n64", Halves, STREAM_K_KERNELS[3].threads, STREAM_K_KERNELS[3].shared_bytes();
    NARROW_N128: NarrowProductParams = "narrow_product", "narrow_product_n128", Halves, STREAM_K_KERNELS[4].threads, STREAM_K_KERNELS[4].shared_bytes();
    ATTEND_PLAN: AttendPlanParams = "attend_plan", "attend_plan", None, 1024, 0;
    DECODE_ATTEND_D64: DecodeAttendParams = "decode_attend", "decode_attend_d64", Halves, 128, decode_attend_bytes(64, 16, 1024);
    DECODE_ATTEND_D128: DecodeAttendParams = "decode_attend", "decode_attend_d128", Halves, 128, decode_attend_bytes(128, 16, 1024);
    PREFILL_PREPARE_D64: AttendParams = "prefill_prepare", "prefill_prepare_d64", Halves, 256, 0;
    PREFILL_PREPARE_D128: AttendParams = "prefill_prepare", "prefill_prepare_d128", Halves, 256, 0;
    PREFILL_ATTEND_D64: PrefillAttendParams = "prefill_attend", "prefill_attend_d64", Halves, 384, 147_632;
    PREFILL_ATTEND_D128: PrefillAttendParams = "prefill_attend", "prefill_attend_d128", Halves, 384, 163_936;
    MERGE_LOGITS: MergeLogitsParams = "ranks", "merge_logits", None, 256, 0;
}

/// What a block may take of a Hopper multiprocessor's shared memory.
const BLOCK_BYTES: u32 = 227 << 10;

/// The stream products, as [`crate::skinny_gemm::SKINNY_GEMM_KERNELS`] has them.
pub const STREAM: [Kernel<StreamProductParams>; 10] = [
    STREAM_N8S8,
    STREAM_N8S4,
    STREAM_N16S8,
    STREAM_N16S4,
    STREAM_N32,
    STREAM_N64,
    STREAM_N96,
    STREAM_N128,
    STREAM_N192,
    STREAM_N256,
];

/// The same for the head, where there is one.
pub const HEAD: [Option<Kernel<HeadProductParams>>; 10] = [
    Some(HEAD_N8),
    None,
    None,
    Some(HEAD_N16),
    Some(HEAD_N32),
    Some(HEAD_N64),
    Some(HEAD_N96),
    Some(HEAD_N128),
    None,
    None,
];

/// The narrow products, as [`STREAM_K_KERNELS`] has them.
pub const NARROW: [Kernel<NarrowProductParams>; 5] =
    [NARROW_N8, NARROW_N16, NARROW_N32, NARROW_N64, NARROW_N128];

/// Query heads of a KV head that `decode_attend` takes at most.
pub const DECODE_GROUP_MAX: u32 = 16;
/// Rows that `decode_attend` and `attend_plan` take at most.
pub const DECODE_ROWS_MAX: u32 = 1024;

/// Shared memory of `decode_attend`: rings of pages, queries, and the sums of `group` query heads;
/// `Layout` in `cuda/decode_attend.cu`.
#[must_use]
pub const fn decode_attend_bytes(head_dim: u32, group: u32, rows: u32) -> u32 {
    let stages = if head_dim == 64 { 3 } else { 2 };
    let tile = 16 * head_dim * 2;
    let (rings, queries, states) = (4 * stages * 2 * tile, tile, 4 * 16 * 8);
    rings + queries + states + 4 * group * (head_dim + 8) * 4 + (rows + 1) * 4
}

/// Logits of one block of `merge_logits`.
pub const MERGE_LOGITS_EACH: u32 = 1024;
/// Logits of one tile of `sample_tiles`.
pub const SAMPLE_TILE_LOGITS: u32 = 4096;
/// Elements of a head that `attend` and `qkv_prepare` take at most.
pub const PLAIN_HEAD_DIM_MAX: usize = 256;
/// Tokens and outputs of a tile of the plain products.
pub const PRODUCT_TILE: u32 = 64;

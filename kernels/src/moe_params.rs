//! Twins of the structs in `cuda/moe_params.h`, which says what the fields mean.
//!
//! Both sides assert the sizes, as in `params.rs`.
#![allow(missing_docs, reason = "cuda/moe_params.h says what the fields mean")]

use crate::gemm_params::TensorMap;
use crate::params::Address;

/// Asserts the size that the C++ side asserts, too.
macro_rules! sized {
    ($type:ty, $bytes:literal) => {
        const _: () = assert!(size_of::<$type>() == $bytes, "cuda/moe_params.h");
    };
}

/// Experts of all ranks that kernels take at most.
pub const EXPERTS_MAX: u32 = 512;
/// Experts of a token that kernels take at most.
pub const TOP_K_MAX: u32 = 32;
/// Slots that one block of `moe_sort` places at most.
pub const CHUNK_SLOTS_MAX: u32 = 4096;

/// See `cuda/moe_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MoeTile {
    pub expert: u32,
    pub first: u32,
    pub count: u32,
    pub reserved: u32,
}
sized!(MoeTile, 16);

/// See `cuda/moe_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MoeRouteParams {
    pub state: Address,
    pub logits: Address,
    pub bias: Address,
    pub correction: Address,
    pub experts_of: Address,
    pub weights: Address,
    pub counts: Address,
    pub tokens: u32,
    pub experts: u32,
    pub top_k: u32,
    pub chunk_tokens: u32,
    pub scores: u32,
    pub normalize: u32,
    pub scale: f32,
    pub expert_groups: u32,
    pub groups_kept: u32,
    pub group_score: u32,
}
sized!(MoeRouteParams, 96);

/// See `cuda/moe_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MoeSortParams {
    pub experts_of: Address,
    pub counts: Address,
    pub positions: Address,
    pub slots_at: Address,
    pub tiles: Address,
    pub slots: u32,
    pub experts: u32,
    pub chunks: u32,
    pub chunk_slots: u32,
    pub first_expert: u32,
    pub local_experts: u32,
    pub tile_tokens: u32,
    pub tiles_max: u32,
}
sized!(MoeSortParams, 72);

/// See `cuda/moe_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MoeGemmParams {
    pub x: Address,
    pub weight: Address,
    pub bias: Address,
    pub out: Address,
    pub tiles: Address,
    pub slots_at: Address,
    pub top_k: u32,
    pub tiles_max: u32,
    pub in_features: u32,
    pub out_features: u32,
    pub stride: u32,
    pub alpha: f32,
    pub limit: f32,
    pub up_offset: f32,
}
sized!(MoeGemmParams, 80);

/// See `cuda/moe_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MoeGemmSm90Params {
    pub x: TensorMap,
    pub weight: TensorMap,
    pub bias: Address,
    pub out: Address,
    pub tiles: Address,
    pub tiles_max: u32,
    pub in_features: u32,
    pub out_features: u32,
    pub stages: u32,
    pub alpha: f32,
    pub limit: f32,
    pub up_offset: f32,
    pub tokens: u32,
    pub out_stride: u32,
    pub epilogue: i32,
}
sized!(MoeGemmSm90Params, 320);

/// See `cuda/moe_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MoeGatherParams {
    pub x: Address,
    pub out: Address,
    pub positions: Address,
    pub hidden: u32,
    pub top_k: u32,
}
sized!(MoeGatherParams, 32);

/// See `cuda/moe_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MoeCombineParams {
    pub residual: Address,
    pub expert_out: Address,
    pub positions: Address,
    pub weights: Address,
    pub out: Address,
    pub hidden: u32,
    pub top_k: u32,
}
sized!(MoeCombineParams, 48);

/// See `cuda/moe_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct SharedGateParams {
    pub x: Address,
    pub gate: Address,
    pub inner: Address,
    pub hidden: u32,
    pub inner_cols: u32,
}
sized!(SharedGateParams, 32);

/// See `cuda/moe_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct RepackParams {
    pub from: Address,
    pub to: Address,
    pub refused: Address,
    pub row_bytes: u64,
    pub seed: u64,
    pub rows: u32,
    pub cols: u32,
    pub first_block: u32,
    pub row_blocks: u32,
}
sized!(RepackParams, 56);

//! Twins of the structs in `cuda/attention_params.h`, which says what the fields mean.
//!
//! Both sides assert the sizes, as in `params.rs`.
#![allow(missing_docs, reason = "cuda/attention_params.h says what the fields mean")]

use crate::gemm_params::TensorMap;
use crate::params::{Address, StepTables};

/// Asserts the size that the C++ side asserts, too.
macro_rules! sized {
    ($type:ty, $bytes:literal) => {
        const _: () = assert!(size_of::<$type>() == $bytes, "cuda/attention_params.h");
    };
}

/// See `cuda/attention_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct AttentionParams {
    pub step: StepTables,
    pub qkv: Address,
    pub out: Address,
    pub q_norm: Address,
    pub k_norm: Address,
    pub sinks: Address,
    pub rope: Address,
    pub keys: Address,
    pub values: Address,
    pub table: Address,
    pub table_stride: u32,
    pub block_tokens: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub pairs: u32,
    pub window: u32,
    pub eps: f32,
    pub scale: f32,
    pub tokens: u32,
}
sized!(AttentionParams, 160);

/// See `cuda/attention_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct DecodeAttentionParams {
    pub attention: AttentionParams,
    pub pages: Address,
    pub partials: Address,
    pub arrivals: Address,
    pub rows: u32,
    pub reserved: u32,
}
sized!(DecodeAttentionParams, 192);

/// See `cuda/attention_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct PrefillTile {
    pub token: u32,
    pub count: u32,
    pub position: u32,
    pub slot: u32,
}
sized!(PrefillTile, 16);

/// See `cuda/attention_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct PrefillAttentionParams {
    pub queries: TensorMap,
    pub keys: TensorMap,
    pub values: TensorMap,
    pub attention: AttentionParams,
    pub tiles: Address,
    pub tile_count: u32,
    pub first_head: u32,
    pub head_count: u32,
    pub reserved: u32,
}
sized!(PrefillAttentionParams, 576);

/// See `cuda/attention_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct AttentionScheduleParams {
    pub step: StepTables,
    pub pages: Address,
    pub tiles: Address,
    pub rows: u32,
    pub tiles_max: u32,
    pub tile_tokens: u32,
    pub window: u32,
}
sized!(AttentionScheduleParams, 80);

/// See `cuda/attention_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct LatentAttentionParams {
    pub step: StepTables,
    pub queries: Address,
    pub latents: Address,
    pub latent_norm: Address,
    pub rope: Address,
    pub entries: Address,
    pub table: Address,
    pub absorbed: Address,
    pub sums: Address,
    pub table_stride: u32,
    pub block_tokens: u32,
    pub heads: u32,
    pub nope: u32,
    pub latent_dim: u32,
    pub pairs: u32,
    pub eps: f32,
    pub scale: f32,
    pub first_token: u32,
    pub tokens: u32,
}
sized!(LatentAttentionParams, 152);

/// See `cuda/attention_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct LatentDecodeParams {
    pub latent: LatentAttentionParams,
    pub pages: Address,
    pub partials: Address,
    pub arrivals: Address,
    pub rows: u32,
    pub stages: u32,
}
sized!(LatentDecodeParams, 184);

/// See `cuda/attention_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct LatentPrefillParams {
    pub latent: LatentAttentionParams,
    pub first_token: u32,
    pub stages: u32,
}
sized!(LatentPrefillParams, 160);

/// See `cuda/attention_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct LatentExpandParams {
    pub latent: LatentAttentionParams,
    pub k_b: Address,
    pub v_b: Address,
    pub keys: Address,
    pub values: Address,
    pub first_pages: Address,
    pub k_b_stride: u32,
    pub v_b_stride: u32,
    pub first_head: u32,
    pub rows: u32,
}
sized!(LatentExpandParams, 208);

/// See `cuda/attention_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ExpandedAttentionParams {
    pub prefill: PrefillAttentionParams,
    pub rotated: TensorMap,
    pub first_pages: Address,
}
sized!(ExpandedAttentionParams, 768);

/// See `cuda/attention_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct HeadGemmParams {
    pub x: Address,
    pub weight: Address,
    pub out: Address,
    pub tokens: u32,
    pub in_features: u32,
    pub out_features: u32,
    pub x_stride: u32,
    pub x_head_stride: u32,
    pub weight_stride: u32,
    pub out_stride: u32,
    pub out_head_stride: u32,
}
sized!(HeadGemmParams, 56);

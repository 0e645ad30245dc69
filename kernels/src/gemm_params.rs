//! Twins of the structs in `cuda/gemm_params.h`, which says what the fields mean.
//!
//! Both sides assert the sizes, as in `params.rs`.
#![allow(missing_docs, reason = "cuda/gemm_params.h says what the fields mean")]

use crate::params::{Address, StepTables};

/// Asserts the size that the C++ side asserts, too.
macro_rules! sized {
    ($type:ty, $bytes:literal) => {
        const _: () = assert!(size_of::<$type>() == $bytes, "cuda/gemm_params.h");
    };
}

/// How a tensor lies in memory, in the copy engine's own words; only the driver knows them.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct TensorMap(pub [u64; 16]);
sized!(TensorMap, 128);

/// See `cuda/gemm_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct SkinnyGemmParams {
    pub weight: TensorMap,
    pub x: TensorMap,
    pub out: Address,
    pub bias: Address,
    pub squares: Address,
    pub next_scale: Address,
    pub next_x: Address,
    pub next_squares: Address,
    pub partials: u32,
    pub eps: f32,
    pub out_features: u32,
    pub in_features: u32,
    pub tokens: u32,
    pub out_stride: u32,
    pub epilogue: u32,
    pub tile_n: u32,
    pub stages: u32,
    pub start_next_ahead: u32,
}
sized!(SkinnyGemmParams, 384);

/// See `cuda/gemm_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct LmHeadGemmParams {
    pub gemm: SkinnyGemmParams,
    pub step: StepTables,
    pub tiles: Address,
    pub tiles_per_row: u32,
    pub vocab: u32,
    pub first_token: u32,
}
sized!(LmHeadGemmParams, 512);

/// See `cuda/gemm_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct StreamKGemmParams {
    pub weight: Address,
    pub x: Address,
    pub bias: Address,
    pub out: Address,
    pub partials: Address,
    pub arrivals: Address,
    pub out_features: u32,
    pub in_features: u32,
    pub stride: u32,
    pub tokens: u32,
    pub out_stride: u32,
    pub epilogue: u32,
}
sized!(StreamKGemmParams, 72);

/// See `cuda/gemm_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ReferenceGemmParams {
    pub x: Address,
    pub weight: Address,
    pub bias: Address,
    pub out: Address,
    pub tokens: u32,
    pub in_features: u32,
    pub out_features: u32,
    pub stride: u32,
    pub out_stride: u32,
    pub reserved: u32,
}
sized!(ReferenceGemmParams, 56);

/// See `cuda/gemm_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct EpilogueParams {
    pub sums: Address,
    pub bias: Address,
    pub out: Address,
    pub tokens: u32,
    pub out_features: u32,
}
sized!(EpilogueParams, 32);

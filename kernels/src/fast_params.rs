//! Twins of the structs in `cuda/fast_params.h`, which says what the fields mean.
//!
//! Both sides assert the sizes, as in `params.rs`.
#![allow(missing_docs, reason = "cuda/fast_params.h says what the fields mean")]

use crate::params::{Address, AttendParams, StepTables};

/// Asserts the size that the C++ side asserts, too.
macro_rules! sized {
    ($type:ty, $bytes:literal) => {
        const _: () = assert!(size_of::<$type>() == $bytes, "cuda/fast_params.h");
    };
}

/// How a tensor lies in memory, in the copy engine's own words; only the driver knows them.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct TensorMap(pub [u64; 16]);
sized!(TensorMap, 128);

/// See `cuda/fast_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct StreamProductParams {
    pub weight: TensorMap,
    pub x: TensorMap,
    pub out: Address,
    pub bias: Address,
    pub squares: Address,
    pub next_scale: Address,
    pub next_x: Address,
    pub next_squares: Address,
    pub parts: u32,
    pub eps: f32,
    pub out_rows: u32,
    pub inputs: u32,
    pub tokens: u32,
    pub out_stride: u32,
    pub store: u32,
    pub tile_rows: u32,
    pub stages: u32,
    pub start_next_ahead: u32,
}
sized!(StreamProductParams, 384);

/// See `cuda/fast_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct HeadProductParams {
    pub product: StreamProductParams,
    pub step: StepTables,
    pub tiles: Address,
    pub tiles_per_row: u32,
    pub vocab: u32,
    pub first_token: u32,
}
sized!(HeadProductParams, 512);

/// See `cuda/fast_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct NarrowProductParams {
    pub weight: Address,
    pub x: Address,
    pub bias: Address,
    pub out: Address,
    pub pieces: Address,
    pub arrivals: Address,
    pub out_rows: u32,
    pub inputs: u32,
    pub stride: u32,
    pub tokens: u32,
    pub out_stride: u32,
    pub store: u32,
}
sized!(NarrowProductParams, 72);

/// See `cuda/fast_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct DecodeAttendParams {
    pub attend: AttendParams,
    pub pages: Address,
    pub partials: Address,
    pub arrivals: Address,
    pub rows: u32,
    pub reserved: u32,
}
sized!(DecodeAttendParams, 192);

/// See `cuda/fast_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct PrefillTile {
    pub token: u32,
    pub count: u32,
    pub position: u32,
    pub slot: u32,
}
sized!(PrefillTile, 16);

/// See `cuda/fast_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct PrefillAttendParams {
    pub queries: TensorMap,
    pub keys: TensorMap,
    pub values: TensorMap,
    pub attend: AttendParams,
    pub tiles: Address,
    pub tile_count: u32,
    pub reserved: u32,
}
sized!(PrefillAttendParams, 576);

/// See `cuda/fast_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct AttendPlanParams {
    pub step: StepTables,
    pub pages: Address,
    pub tiles: Address,
    pub rows: u32,
    pub tiles_max: u32,
    pub tile_tokens: u32,
    pub window: u32,
}
sized!(AttendPlanParams, 80);

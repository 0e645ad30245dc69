//! Twins of the structs in `cuda/sample_params.h`, which says what the fields mean.
//!
//! Both sides assert the sizes, as in `params.rs`.
#![allow(missing_docs, reason = "cuda/sample_params.h says what the fields mean")]

use crate::params::{Address, StepTables};

/// Asserts the size that the C++ side asserts, too.
macro_rules! sized {
    ($type:ty, $bytes:literal) => {
        const _: () = assert!(size_of::<$type>() == $bytes, "cuda/sample_params.h");
    };
}

/// See `cuda/sample_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct SampleTile {
    pub noisy_score: f64,
    pub noisy_token: u32,
    pub top_logit: f32,
    pub top_token: u32,
    pub finite: u32,
}
sized!(SampleTile, 24);

/// Most biases of a slot: the stride of their table.
pub const BIASES_MAX: usize = 300;
/// Most logprobs of a sampled token: the stride of their table.
pub const LOGPROBS_MAX: usize = 21;

/// See `cuda/sample_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Bias {
    pub token: u32,
    pub value: f32,
}
sized!(Bias, 8);

/// See `cuda/sample_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Logprob {
    pub token: u32,
    pub logprob: f32,
}
sized!(Logprob, 8);

/// Most steps under way that have token masks.
pub const MASK_SLOTS: usize = 2;
/// Token masks have not come.
pub const MASKS_AWAITED: u32 = 0;
/// Token masks have come.
pub const MASKS_GIVEN: u32 = 1;
/// Token masks will not come.
pub const MASKS_GIVEN_UP: u32 = 2;

/// See `cuda/sample_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MaskParams {
    pub given: Address,
    pub kept: Address,
    pub words: u32,
    pub reserved: u32,
}
sized!(MaskParams, 24);

/// See `cuda/sample_params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct SampleParams {
    pub step: StepTables,
    pub logits: Address,
    pub tiles: Address,
    pub sampled: Address,
    pub last_tokens: Address,
    pub token_counts: Address,
    pub biases: Address,
    pub logprobs: Address,
    pub masks: MaskParams,
    pub vocab: u32,
    pub tiles_per_row: u32,
    pub outputs_max: u32,
    pub head_partials: u32,
}
sized!(SampleParams, 144);

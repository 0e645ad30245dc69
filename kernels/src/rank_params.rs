//! Twins of the structs in `cuda/rank_params.h`, which says what the fields mean.
//!
//! Both sides assert the sizes, as in `params.rs`.
#![allow(missing_docs, reason = "cuda/rank_params.h says what the fields mean")]

use crate::params::Address;

/// Ranks that share a vocabulary at most.
pub const RANKS_MAX: usize = 64;

/// See `cuda/rank_params.h`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MergeLogitsParams {
    pub gathered: Address,
    pub logits: Address,
    pub outputs: u32,
    pub stride: u32,
    pub vocab: u32,
    pub first_tokens: [u32; RANKS_MAX + 1],
}
const _: () = assert!(size_of::<MergeLogitsParams>() == 288, "cuda/rank_params.h");

//! The CPU backend: every operation composed of small functions, in single precision.
//!
//! | file | is |
//! |---|---|
//! | `cpu_backend.rs` | the device, composed of what follows |
//! | `rank_device.rs`, `operations.rs` | the traits: setup, and the operations of a step |
//! | `gemm.rs`, `microkernel.rs` | gemm: tiles and epilogues, microkernel |
//! | `gemm_rows.rs` | which rows which matrix multiplies: grouped gemms |
//! | `panel.rs`, `inputs.rs` | inputs of a gemm |
//! | `weights.rs`, `matrix.rs`, `blocks/` | weights: handles, bands of rows, packed formats |
//! | `attend.rs`, `attention.rs`, `rope.rs` | attention |
//! | `attend_latent.rs`, `latent_attention.rs` | latent attention |
//! | `moe.rs`, `moe_weights.rs`, `routing.rs`, `expert_rows.rs` | mixtures of experts |
//! | `cache.rs`, `block_tables.rs` | the cache, and which block of it holds what |
//! | `sample/` | sampling |
//! | `ranks.rs`, `shm.rs` | collectives over shared memory |
//! | `step.rs` | the step under way, and its digest |
//! | `workspace.rs` | memory of the operations |
//! | `threads.rs`, `simd.rs`, `math.rs` | threads, instruction sets, elementary functions |
//!
//! Weights stay as packed as they came. No order of summation depends on the batch, on chunking,
//! on threads or on block size, so a token's result has the same bits in any company.

mod attend;
mod attend_latent;
mod attention;
mod block_tables;
mod blocks;
mod cache;
mod cpu_backend;
mod expert_rows;
mod gemm;
mod gemm_rows;
mod inputs;
mod latent_attention;
mod math;
mod matrix;
mod microkernel;
mod moe;
mod moe_weights;
mod online_softmax;
mod operations;
mod panel;
mod random_weights;
mod rank_device;
mod ranks;
mod rope;
mod routing;
pub mod sample;
pub mod shm;
mod simd;
mod step;
#[cfg(test)]
mod tests;
mod threads;
mod weights;
mod workspace;

pub use binfer_proto::KvDtype;
pub use cpu_backend::{CpuBackend, CpuSettings};
pub use simd::Level;

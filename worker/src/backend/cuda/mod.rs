//! The CUDA backend: every operation on one GPU of compute capability 8.0 or newer.
//!
//! | file | is |
//! |---|---|
//! | `cuda_backend.rs` | the device, composed of what follows |
//! | `rank_device.rs`, `operations.rs` | the traits: setup, and the operations of a step |
//! | `operands.rs`, `launch.rs` | arguments as addresses; what launches of a step share |
//! | `gemm/` | gemms and the norms around them: which kernel, then its launch |
//! | `attention/` | attention and the cache, likewise |
//! | `moe/` | mixtures of experts: routing, grouped gemms, the sum of a token's experts |
//! | `sampling/` | sampling: token counts, token masks, launches |
//! | `steps.rs`, `ring.rs` | the step under way: its delta to the device, its outcome back |
//! | `graphs.rs`, `warmup.rs` | decode steps as CUDA graphs; a step run before the first one |
//! | `ranks.rs`, `collectives.rs` | the other ranks, and what they add to the operations |
//! | `load.rs`, `upload.rs`, `repack.rs` | weights: converted once, uploaded, packed anew |
//! | `weights.rs`, `formats/` | where they lie, and how |
//! | `memory.rs`, `ledger.rs`, `budget.rs` | all other memory; what for; what the cache gets |
//! | `peaks.rs`, `slow.rs` | what the device reaches at best; what runs on reference kernels |
//! | `device.rs`, `settings.rs` | the device, the image that it runs, launches |
//! | `ffi/` | the door to the driver, cuBLASLt and NCCL |
//!
//! [`CudaBackend`] composes them; none knows another but through what it is given, and no choice
//! needs a GPU (`tests/choices.rs`). Weights, cache and inner activations are bf16 or f16, sums
//! f32. A reference kernel's result for a token does not depend on its company; a fast one's may,
//! through the order of sums alone. Kernels read a step's counts from device memory, so that a CUDA
//! graph fits every step of its bucket. No backend goes on after a rank was lost.

mod attention;
mod budget;
mod collectives;
mod cuda_backend;
mod device;
mod ffi;
mod formats;
mod gemm;
mod graphs;
mod launch;
mod ledger;
mod load;
mod memory;
mod moe;
mod operands;
mod operations;
mod peaks;
mod rank_device;
mod ranks;
mod repack;
mod ring;
mod sampling;
mod settings;
mod slow;
mod steps;
#[cfg(test)]
mod tests;
mod upload;
mod warmup;
mod weights;

use std::path::PathBuf;

use super::BackendError;
pub use cuda_backend::CudaBackend;
pub use device::{Missing, probe};
pub use ffi::driver::DeviceInfo;
pub use formats::half::Half;
pub use settings::CudaSettings;

/// Version of the NCCL that several ranks would use, out of one of `folders` if it is there.
pub fn nccl_version(folders: &[PathBuf]) -> Result<String, BackendError> {
    ffi::nccl::Nccl::open(folders)?.version_text()
}

/// Version and file of the cuBLASLt that a GPU would use, out of one of `folders` if it is there.
pub fn cublas_version(folders: &[PathBuf]) -> Result<String, BackendError> {
    let (version, file) = ffi::library::cublas(folders)?;
    Ok(format!("{}, {file}", ffi::library::version_text(version)))
}

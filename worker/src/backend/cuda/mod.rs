//! The CUDA backend: every operation on one GPU of compute capability 8.0 or newer.
//!
//! | file | is |
//! |---|---|
//! | `ops.rs` | the operations of the trait, in terms of what follows |
//! | `product.rs`, `attend.rs` | products, attention: which kernel, with which grid |
//! | `library.rs`, `algorithms.rs` | products of many tokens: cuBLASLt, and what it was found to do best |
//! | `stream_product.rs`, `fast_attend.rs` | the same for published shapes, on kernels of their own |
//! | `head_product.rs` | the head, with what sampling wants to know of logits |
//! | `narrow_product.rs` | products of few tokens on images without wgmma |
//! | `step.rs`, `ring.rs` | the step under way: its delta to the device, its outcome back |
//! | `sample.rs`, `masks.rs` | drawing tokens, what slots have seen, what may be drawn |
//! | `staging.rs` | what slots have seen, on its way to the device |
//! | `graph.rs` | decode steps as recordings, by bucket |
//! | `rehearsal.rs` | a prompt's step, run before the first one |
//! | `load.rs`, `upload.rs`, `weights.rs` | weights: converted once, uploaded, found again |
//! | `memory.rs`, `ledger.rs` | all other memory, taken once; what was taken for what |
//! | `budget.rs` | how much of the device the cache may take |
//! | `timing.rs` | times between operations, for `timed/` |
//! | `device.rs` | the device, the image that it runs, launches |
//! | `ranks.rs`, `share.rs` | the other ranks, and what they add to the operations |
//! | `ffi/` | the door to the driver, cuBLASLt and NCCL |
//!
//! Weights, cache and inner activations are bf16 or f16, sums f32. A plain kernel's result for a token
//! does not depend on its company; a fast one's may, through the order of sums alone. Kernels read a
//! step's counts from device memory, so that a recording fits every step of its bucket.
//! Deliberately absent: going on after a rank was lost.

mod algorithms;
mod attend;
mod budget;
mod device;
mod fast_attend;
mod ffi;
mod graph;
mod head_product;
mod ledger;
mod library;
mod load;
mod masks;
mod memory;
mod narrow_product;
mod ops;
mod product;
mod ranks;
mod rehearsal;
mod ring;
mod sample;
mod share;
mod staging;
mod step;
mod stream_product;
#[cfg(test)]
mod tests;
mod timing;
mod upload;
mod weights;

use std::path::PathBuf;

use binfer_kernels::Target;

use super::BackendError;
use device::Device;
pub use device::{Missing, probe};
pub use ffi::DeviceInfo;
use ffi::blas::Blas;
use graph::Recordings;
use ledger::Ledger;
use library::Library;
use memory::Memory;
use narrow_product::NarrowSpace;
use ranks::Ranks;
use step::Step;
use weights::Weights;

/// Type of weights, cache and inner activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Half {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl Half {
    /// Bytes of an element.
    pub const BYTES: usize = 2;
}

/// How a CUDA backend works.
#[derive(Clone, Debug)]
pub struct CudaSettings {
    /// Number of the device.
    pub ordinal: i32,
    /// In which type it computes.
    pub half: Half,
    /// Which image it runs; the device's best where absent.
    pub target: Option<Target>,
    /// Where libraries are looked for before the system's places.
    pub libraries: Vec<PathBuf>,
    /// Decode steps run out of recordings.
    pub graphs: bool,
    /// Share of the device's memory that this process may take.
    pub memory_utilization: f64,
    /// Threads that read and convert weights.
    pub threads: usize,
    /// Ranks that share the model.
    pub world: usize,
}

/// A GPU as a device. Used by the thread that made it.
pub struct CudaBackend {
    settings: CudaSettings,
    /// First, since a communicator hangs while one of its collectives is recorded.
    recordings: Recordings,
    /// Second, since freeing memory waits for kernels, which may wait for peers.
    ranks: Ranks,
    step: Step,
    memory: Memory,
    narrow: NarrowSpace,
    weights: Weights,
    ledger: Ledger,
    blas: Blas,
    library: Library,
    /// Last, since the others' memory is freed in its context.
    device: Device,
}

/// Before anything ends: all that is left in the device may stand behind a step that waits for masks.
impl Drop for CudaBackend {
    fn drop(&mut self) {
        if let Some(ring) = &mut self.step.ring {
            // Its places are within its memory, so this does not fail.
            let _ = ring.masks.give_up();
        }
    }
}

/// Version of the NCCL that several ranks would use, out of one of `folders` if it is there.
pub fn nccl_version(folders: &[PathBuf]) -> Result<String, BackendError> {
    ffi::nccl::Nccl::open(folders)?.version_text()
}

/// Version and file of the cuBLASLt that a GPU would use, out of one of `folders` if it is there.
pub fn cublas_version(folders: &[PathBuf]) -> Result<String, BackendError> {
    let (version, file) = ffi::library::cublas(folders)?;
    Ok(format!("{}, {file}", ffi::library::version_text(version)))
}

impl CudaBackend {
    /// A backend without weights.
    pub fn new(settings: CudaSettings) -> Result<Self, BackendError> {
        let (device, mut ledger) = Device::open(&settings)?;
        let library = || Blas::new(settings.half, &device.info.name, &settings.libraries);
        let blas = ledger.count("cuBLASLt", &device.context, library)?;
        let narrow = NarrowSpace::new(&device)?;
        Ok(Self {
            recordings: Recordings::default(),
            ranks: Ranks::new(settings.world, &settings.libraries)?,
            step: Step::default(),
            memory: Memory::nothing()?,
            narrow,
            weights: Weights::default(),
            ledger,
            blas,
            library: Library::default(),
            device,
            settings,
        })
    }
}

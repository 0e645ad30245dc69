//! The CUDA backend: every operation on one GPU of compute capability 8.0 or newer.
//!
//! | file | is |
//! |---|---|
//! | `backend.rs` | the trait: operations handed to the components that follow |
//! | `operands.rs`, `launch.rs` | arguments as addresses; what launches of a step share |
//! | `gemm/` | gemms and the norms around them: which kernel, then its launch |
//! | `attention/` | attention and the cache, likewise |
//! | `sampling/` | sampling: token counts, token masks, launches |
//! | `steps.rs`, `ring.rs` | the step under way: its delta to the device, its outcome back |
//! | `graphs.rs`, `warmup.rs` | decode steps as CUDA graphs; a step run before the first one |
//! | `ranks.rs`, `collectives.rs` | the other ranks, and what they add to the operations |
//! | `load.rs`, `upload.rs` | weights: converted once, uploaded |
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
//! graph fits every step of its bucket. Deliberately absent: going on after a rank was lost.

mod attention;
mod backend;
mod budget;
mod collectives;
mod device;
mod ffi;
mod formats;
mod gemm;
mod graphs;
mod launch;
mod ledger;
mod load;
mod memory;
mod operands;
mod peaks;
mod ranks;
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

use binfer_shard::fit::{COLLECTIVES_BYTES, CONTEXT_BYTES, DRIVER_BYTES};

use super::{BackendError, MemoryPlan};
use attention::Attention;
use attention::cache::kv_block_bytes;
use budget::MemoryRoom;
use collectives::Collectives;
use device::Device;
pub use device::{Missing, probe};
use ffi::blas::Blas;
pub use ffi::driver::DeviceInfo;
pub use formats::half::Half;
use gemm::Gemms;
use gemm::algorithms::measured;
use graphs::Graphs;
use launch::{Launcher, StepPlaces};
use ledger::Ledger;
use memory::{Memory, Taken, step_bytes};
use operands::Operands;
use ranks::Ranks;
use ring::Ring;
use sampling::{Sampling, SamplingPlaces};
pub use settings::CudaSettings;
use slow::SlowParts;
use steps::Steps;
use weights::Weights;

/// A GPU as a device. Used by the thread that made it.
pub struct CudaBackend {
    settings: CudaSettings,
    /// First, since a communicator hangs while a CUDA graph has one of its collectives.
    graphs: Graphs,
    /// Second, since freeing memory waits for kernels, which may wait for peers.
    collectives: Collectives,
    steps: Steps,
    places: StepPlaces,
    gemms: Gemms,
    attention: Attention,
    sampling: Sampling,
    memory: Memory,
    weights: Weights,
    slow: SlowParts,
    ledger: Ledger,
    /// Last, since the others' memory is freed in its context.
    device: Device,
}

/// Before anything ends: all that is left in the device may stand behind a step that waits for
/// masks.
impl Drop for CudaBackend {
    fn drop(&mut self) {
        // Its places are within its memory, so this does not fail.
        let _ = self.sampling.masks.give_up();
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

/// The components that enqueue a step's work, and what they share.
struct Parts<'a> {
    on: Launcher<'a>,
    steps: &'a mut Steps,
    gemms: &'a mut Gemms,
    attention: &'a mut Attention,
    sampling: &'a mut Sampling,
    collectives: &'a Collectives,
}

impl CudaBackend {
    /// A backend without weights.
    pub fn new(settings: CudaSettings) -> Result<Self, BackendError> {
        let (device, mut ledger) = Device::open(&settings)?;
        let CudaSettings { half, libraries, .. } = &settings;
        let blas = || Blas::new(*half, &device.info.name, libraries, measured);
        let blas = ledger.count("cuBLASLt", &device.context, blas)?;
        Ok(Self {
            graphs: Graphs::new(settings.graphs),
            collectives: Collectives::new(Ranks::new(settings.world, libraries)?),
            steps: Steps::none(),
            places: StepPlaces::default(),
            gemms: Gemms::new(&device, blas)?,
            attention: Attention::default(),
            sampling: Sampling::new(&MemoryPlan::default(), SamplingPlaces::default())?,
            memory: Memory::nothing()?,
            weights: Weights::default(),
            slow: SlowParts::default(),
            ledger,
            device,
            settings,
        })
    }

    /// Gives every component its place in memory that was taken for `plan`.
    fn take_memory(&mut self, plan: &MemoryPlan, taken: Taken) -> Result<(), BackendError> {
        let Taken { memory, places, layers, groups } = taken;
        self.steps = Steps::new(plan, Ring::new(plan, &groups)?)?;
        self.sampling = Sampling::new(plan, places.sampling)?;
        self.attention = Attention::new(places.attention, layers, groups);
        self.gemms.places = places.gemm;
        self.collectives.place(plan, places.gathered);
        self.graphs.plan(plan);
        (self.places, self.memory) = (places.step, memory);
        Ok(())
    }

    fn launcher(&self) -> Launcher<'_> {
        Launcher {
            device: &self.device,
            places: &self.places,
            shape: self.steps.shape,
            is_capturing: self.graphs.is_capturing(),
        }
    }

    fn parts(&mut self) -> Parts<'_> {
        Parts {
            on: Launcher {
                device: &self.device,
                places: &self.places,
                shape: self.steps.shape,
                is_capturing: self.graphs.is_capturing(),
            },
            steps: &mut self.steps,
            gemms: &mut self.gemms,
            attention: &mut self.attention,
            sampling: &mut self.sampling,
            collectives: &self.collectives,
        }
    }

    fn operands(&self) -> Operands<'_> {
        Operands {
            on: self.launcher(),
            weights: &self.weights,
            arena: &self.memory.arena,
            plan: &self.steps.plan,
            batch: &self.steps.batch,
            normed: self.gemms.places.normed,
        }
    }

    /// Remembers that reference kernels take a part of a step: of captured ones, and of the warmup
    /// behind them, which show all that a model needs.
    fn note_slow(&mut self, part: impl FnOnce() -> String) {
        if self.graphs.is_capturing() || self.steps.is_first() {
            self.slow.note(part());
        }
    }

    /// Bytes that the cache may take beside all else that `plan` says.
    fn cache_bytes_max(&self, plan: &MemoryPlan) -> Result<u64, BackendError> {
        let (free, total) = self.device.context.memory_bytes()?;
        let collectives = if plan.vocab_rows.len() > 1 { COLLECTIVES_BYTES } else { 0 };
        let own: u64 = self.device_lines().iter().skip(1).map(|(_, bytes)| bytes).sum();
        let steps = (step_bytes(plan) + Sampling::bytes_of(plan)) as u64;
        let room = MemoryRoom {
            total,
            free,
            taken: CONTEXT_BYTES + own,
            needed: steps + DRIVER_BYTES + collectives,
            utilization: self.settings.memory_utilization,
        };
        room.for_blocks(kv_block_bytes(plan)?)
    }

    /// All that lies on the device; the first line is not only this process's.
    fn device_lines(&self) -> Vec<(String, u64)> {
        let [activations, workspace, cache] = self.memory.lines();
        let counts = ("token counts", self.sampling.bytes());
        let before = [("weights", self.weights.bytes()), ("shared sums", self.gemms.bytes())];
        let exact = before.into_iter().filter(|(_, bytes)| *bytes > 0);
        let exact = exact.chain([activations, workspace, counts, cache]);
        let exact = exact.map(|(name, bytes)| (name, bytes as u64));
        let lines = self.ledger.lines().iter().copied().chain(exact);
        lines.map(|(name, bytes)| (name.to_owned(), bytes)).collect()
    }

    /// What memory was taken for, for people: with what the driver says is in use, and the host's
    /// share.
    fn all_lines(&self) -> Vec<(String, u64)> {
        let device = &self.device.info;
        let title = format!("{} ({})", device.name, self.device.target.name());
        let in_use = ledger::in_use(&self.device.context).ok();
        let in_use = in_use.map(|bytes| ("in use".to_owned(), bytes));
        let pinned = (self.steps.host_bytes() + self.sampling.host_bytes()) as u64;
        [(title, device.bytes_total)]
            .into_iter()
            .chain(in_use)
            .chain(self.device_lines())
            .chain([("pinned host memory".to_owned(), pinned)])
            .collect()
    }
}

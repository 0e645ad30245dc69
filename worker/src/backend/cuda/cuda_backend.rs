//! A GPU as a device: its parts, what they share during a step, and the ledger over all of them.

use binfer_shard::fit::{COLLECTIVES_BYTES, CONTEXT_BYTES, DRIVER_BYTES};

use super::attention::Attention;
use super::attention::cache::kv_block_bytes;
use super::budget::MemoryRoom;
use super::collectives::Collectives;
use super::device::CudaDevice;
use super::ffi::blas::Blas;
use super::gemm::Gemms;
use super::gemm::algorithms::measured;
use super::graphs::Graphs;
use super::launch::{Launcher, StepPlaces};
use super::ledger::{DeviceLedger, in_use};
use super::memory::{StepMemory, Taken, step_bytes};
use super::moe::Moe;
use super::operands::Operands;
use super::ranks::CudaRanks;
use super::ring::Ring;
use super::sampling::{SamplingPlaces, TokenSampling};
use super::settings::CudaSettings;
use super::slow::SlowParts;
use super::steps::CudaSteps;
use super::weights::Weights;
use crate::backend::{BackendError, MemoryLayout};

/// A GPU as a device. Used by the thread that made it.
pub struct CudaBackend {
    pub(super) settings: CudaSettings,
    /// First, since a communicator hangs while a CUDA graph has one of its collectives.
    pub(super) graphs: Graphs,
    /// Second, since freeing memory waits for kernels, which may wait for peers.
    pub(super) collectives: Collectives,
    pub(super) steps: CudaSteps,
    pub(super) places: StepPlaces,
    pub(super) gemms: Gemms,
    pub(super) attention: Attention,
    pub(super) moe: Moe,
    pub(super) sampling: TokenSampling,
    pub(super) memory: StepMemory,
    pub(super) weights: Weights,
    pub(super) slow: SlowParts,
    pub(super) ledger: DeviceLedger,
    /// Last, since the others' memory is freed in its context.
    pub(super) device: CudaDevice,
}

/// Before anything ends: all that is left in the device may stand behind a step that waits for
/// masks.
impl Drop for CudaBackend {
    fn drop(&mut self) {
        // Its places are within its memory, so this does not fail.
        let _ = self.sampling.masks.give_up();
    }
}

/// The components that enqueue a step's work, and what they share.
pub(super) struct StepParts<'a> {
    pub(super) on: Launcher<'a>,
    pub(super) steps: &'a mut CudaSteps,
    pub(super) gemms: &'a mut Gemms,
    pub(super) attention: &'a mut Attention,
    pub(super) moe: &'a Moe,
    pub(super) sampling: &'a mut TokenSampling,
    pub(super) collectives: &'a Collectives,
}

impl CudaBackend {
    /// A backend without weights.
    pub fn new(settings: CudaSettings) -> Result<Self, BackendError> {
        let (device, mut ledger) = CudaDevice::open(&settings)?;
        let CudaSettings { half, libraries, .. } = &settings;
        let blas = || Blas::new(*half, &device.info.name, libraries, measured);
        let blas = ledger.count("cuBLASLt", &device.context, blas)?;
        Ok(Self {
            graphs: Graphs::new(settings.graphs),
            collectives: Collectives::new(CudaRanks::new(settings.world, libraries)?),
            steps: CudaSteps::none(),
            places: StepPlaces::default(),
            gemms: Gemms::new(&device, blas)?,
            attention: Attention::default(),
            moe: Moe::default(),
            sampling: TokenSampling::new(&MemoryLayout::default(), SamplingPlaces::default())?,
            memory: StepMemory::nothing()?,
            weights: Weights::default(),
            slow: SlowParts::default(),
            ledger,
            device,
            settings,
        })
    }

    /// Gives every component its place in memory that was taken for `layout`.
    pub(super) fn take_memory(
        &mut self,
        layout: &MemoryLayout,
        taken: Taken,
    ) -> Result<(), BackendError> {
        let Taken { memory, places, layers, groups } = taken;
        self.steps = CudaSteps::new(layout, Ring::new(layout, &groups)?)?;
        self.sampling = TokenSampling::new(layout, places.sampling)?;
        self.attention = Attention::new(places.attention, layers, groups);
        self.gemms.places = places.gemm;
        self.moe.places = places.moe;
        self.collectives.place(layout, places.gathered);
        self.graphs.choose_buckets(layout);
        (self.places, self.memory) = (places.step, memory);
        Ok(())
    }

    pub(super) fn launcher(&self) -> Launcher<'_> {
        Launcher {
            device: &self.device,
            places: &self.places,
            shape: self.steps.shape,
            is_capturing: self.graphs.is_capturing(),
        }
    }

    pub(super) fn parts(&mut self) -> StepParts<'_> {
        StepParts {
            on: Launcher {
                device: &self.device,
                places: &self.places,
                shape: self.steps.shape,
                is_capturing: self.graphs.is_capturing(),
            },
            steps: &mut self.steps,
            gemms: &mut self.gemms,
            attention: &mut self.attention,
            moe: &self.moe,
            sampling: &mut self.sampling,
            collectives: &self.collectives,
        }
    }

    pub(super) fn operands(&self) -> Operands<'_> {
        Operands {
            on: self.launcher(),
            weights: &self.weights,
            arena: &self.memory.arena,
            layout: &self.steps.layout,
            batch: &self.steps.batch,
            normed: self.gemms.places.normed,
        }
    }

    /// Remembers that reference kernels take a part of a step: of captured ones, and of the warmup
    /// behind them, which show all that a model needs.
    pub(super) fn note_slow(&mut self, part: impl FnOnce() -> String) {
        if self.graphs.is_capturing() || self.steps.is_first() {
            self.slow.note(part());
        }
    }

    /// Bytes that the cache may take beside all else that `layout` says.
    pub(super) fn cache_bytes_max(&self, layout: &MemoryLayout) -> Result<u64, BackendError> {
        let (free, total) = self.device.context.memory_bytes()?;
        let collectives = if layout.vocab_rows.len() > 1 { COLLECTIVES_BYTES } else { 0 };
        let own: u64 = self.device_lines().iter().skip(1).map(|(_, bytes)| bytes).sum();
        let steps = (step_bytes(layout) + TokenSampling::bytes_of(layout)) as u64;
        let room = MemoryRoom {
            total,
            free,
            taken: CONTEXT_BYTES + own,
            needed: steps + DRIVER_BYTES + collectives,
            utilization: self.settings.memory_utilization,
        };
        room.for_blocks(kv_block_bytes(layout))
    }

    /// All that lies on the device; the first line is not only this process's.
    pub(super) fn device_lines(&self) -> Vec<(String, u64)> {
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
    pub(super) fn all_lines(&self) -> Vec<(String, u64)> {
        let device = &self.device.info;
        let title = format!("{} ({})", device.name, self.device.target.name());
        let in_use = in_use(&self.device.context).ok();
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

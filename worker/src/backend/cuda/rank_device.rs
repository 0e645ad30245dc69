//! The backend from opening to the last step: weights, the other ranks, memory.

use binfer_shard::{Checkpoint, LocalPart, LocalTensor};

use super::cuda_backend::CudaBackend;
use super::graphs::collective_rows;
use super::load::Loader;
use super::memory::StepMemory;
use super::peaks::measure_peaks;
use crate::backend::{Abort, BackendError, GraphCapture, MemoryLayout, Peaks, RankDevice, Weight};

impl CudaBackend {
    fn loader(&mut self) -> Loader<'_> {
        let threads = self.settings.threads;
        Loader { weights: &mut self.weights, device: &self.device, threads }
    }
}

impl RankDevice for CudaBackend {
    fn peaks(&mut self) -> Result<Option<Peaks>, BackendError> {
        measure_peaks(&self.device, self.gemms.blas()).map(Some)
    }

    fn load(
        &mut self,
        checkpoint: &Checkpoint,
        tensors: &[LocalTensor],
        done: &mut dyn FnMut(u64),
    ) -> Result<Vec<Weight>, BackendError> {
        let open = |part: &LocalPart| {
            let mut reader = checkpoint.reader(part)?;
            Ok(move |out: &mut [u8]| reader.fill(out))
        };
        self.loader().load(tensors, open, done)
    }

    fn random_weights(
        &mut self,
        tensors: &[LocalTensor],
        done: &mut dyn FnMut(u64),
    ) -> Result<Vec<Weight>, BackendError> {
        self.loader().fill(tensors, done)
    }

    fn weight_bytes(&self, weight: Weight) -> Option<u64> {
        self.weights.get("weight_bytes", weight).ok().map(|weight| weight.bytes() as u64)
    }

    fn comm_id(&mut self, _world: usize) -> Result<Vec<u8>, BackendError> {
        self.collectives.ranks.new_id()
    }

    fn join(&mut self, id: &[u8], rank: usize, world: usize) -> Result<Abort, BackendError> {
        let ranks = &mut self.collectives.ranks;
        self.ledger.count("NCCL", &self.device.context, || ranks.join(id, rank, world))
    }

    fn kv_bytes_max(&self, layout: &MemoryLayout) -> Result<Option<u64>, BackendError> {
        self.cache_bytes_max(layout).map(Some)
    }

    fn kv_layout(&self) -> &'static str {
        "k and v [block][kv_head][token][element]"
    }

    fn allocate(&mut self, layout: &MemoryLayout) -> Result<(), BackendError> {
        self.device.stream.synchronize()?;
        let taken = StepMemory::take(layout, &self.device.stream)?;
        self.take_memory(layout, taken)?;
        self.device.keep_names(layout.stamps_max > 0);
        self.device.stream.synchronize()?;
        let (collectives, stream) = (&self.collectives, &self.device.stream);
        let scratch = (self.memory.arena.address(), stream);
        let connect = || collectives.connect(layout, collective_rows(layout), scratch);
        self.ledger.count("NCCL", &self.device.context, connect)
    }

    fn graphs(&mut self) -> Option<&mut dyn GraphCapture> {
        Some(self)
    }

    fn ledger(&self) -> Vec<(String, u64)> {
        self.all_lines()
    }

    fn notes(&self) -> Vec<String> {
        self.slow.sentence().into_iter().collect()
    }
}

//! The backend from opening to the last step: weights, the other ranks, memory.

use binfer_shard::{Checkpoint, LocalTensor, read_ahead};

use super::block_tables::BlockTables;
use super::cache::CpuLayerCache;
use super::cpu_backend::CpuBackend;
use super::online_softmax::TILE;
use super::sample::Sampler;
use super::simd::LANES;
use crate::backend::{
    Abort, BackendError, DeviceClock, GraphCapture, MemoryLayout, Peaks, RankDevice, Weight,
};

impl RankDevice for CpuBackend {
    /// Not measured.
    fn peaks(&mut self) -> Result<Option<Peaks>, BackendError> {
        Ok(None)
    }

    fn load(
        &mut self,
        checkpoint: &Checkpoint,
        tensors: &[LocalTensor],
        done: &mut dyn FnMut(u64),
    ) -> Result<Vec<Weight>, BackendError> {
        let (mut weights, mut bytes) = (Vec::with_capacity(tensors.len()), 0);
        read_ahead(checkpoint, tensors, |tensor, parts| {
            weights.push(self.pack(tensor, &parts)?);
            bytes += tensor.bytes();
            done(bytes);
            Ok::<_, BackendError>(())
        })?;
        Ok(weights)
    }

    fn random_weights(
        &mut self,
        tensors: &[LocalTensor],
        done: &mut dyn FnMut(u64),
    ) -> Result<Vec<Weight>, BackendError> {
        self.pack_random(tensors, done)
    }

    /// Weights stay as they came.
    fn weight_bytes(&self, _: Weight) -> Option<u64> {
        None
    }

    fn comm_id(&mut self, world: usize) -> Result<Vec<u8>, BackendError> {
        self.ranks.make(world, self.team.count())
    }

    fn join(&mut self, id: &[u8], rank: usize, world: usize) -> Result<Abort, BackendError> {
        self.ranks.join(id, (rank, world), self.team.count())
    }

    /// The coordinator knows the host's memory.
    fn kv_bytes_max(&self, _: &MemoryLayout) -> Result<Option<u64>, BackendError> {
        Ok(None)
    }

    fn kv_layout(&self) -> &'static str {
        "k [block][kv_head][element][token], v [block][kv_head][token][element]; latent [block][token][element]"
    }

    fn allocate(&mut self, layout: &MemoryLayout) -> Result<(), BackendError> {
        for kv in &layout.kv {
            let tiles = TILE.is_multiple_of(kv.block_tokens.max(1)) || kv.block_tokens % TILE == 0;
            if !tiles || kv.block_tokens % LANES != 0 || kv.shape.elements() == 0 {
                let cause =
                    format!("{kv:?}: blocks of 16, 32 or n x 64 tokens, heads of any width");
                return Err(BackendError::Args { operation: "allocate", cause });
            }
        }
        self.arena = vec![0.0; layout.arena];
        let dtype = self.settings.kv_dtype;
        self.tables = BlockTables::new(layout);
        self.caches = layout.kv.iter().map(|kv| CpuLayerCache::new(kv, dtype)).collect();
        self.last_tokens = vec![0; layout.slots_max];
        self.sampler = Sampler::new(layout.slots_max, layout.vocab);
        self.step.sampled = Vec::with_capacity(layout.outputs_max);
        self.work.reserve(&self.weights, layout, self.ranks.are_several());
        self.step.note_times(layout.stamps_max > 0);
        self.layout = layout.clone();
        Ok(())
    }

    fn graphs(&mut self) -> Option<&mut dyn GraphCapture> {
        None
    }

    /// Not counted: the host's allocator takes it.
    fn ledger(&self) -> Vec<(String, u64)> {
        Vec::new()
    }

    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

impl DeviceClock for CpuBackend {
    fn stamp(&mut self) -> Result<(), BackendError> {
        self.step.stamp();
        Ok(())
    }

    /// No kernel has a name here.
    fn launched(&mut self) -> Vec<&'static str> {
        Vec::new()
    }
}

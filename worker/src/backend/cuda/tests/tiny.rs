//! A tiny checkpoint on the device, fed step by step.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use binfer_proto::BlockId;
use binfer_shard::{Source, layouts};

use crate::backend::cuda::{CudaBackend, CudaSettings};
use crate::backend::{Backend, Begun, StepOutput};
use crate::batch::Batch;
use crate::forward;
use crate::memory::{self, Activations, StepLimits};
use crate::model::{self, Model};
use crate::progress::Progress;

const SLOTS: usize = 40;
const BLOCKS_EACH: usize = 4;

/// A tiny checkpoint on the device.
pub(super) struct Tiny {
    pub(super) backend: CudaBackend,
    pub(super) model: Model,
    activations: Activations,
}

pub(super) fn fixture(name: &str) -> PathBuf {
    let places = ["../tests/fixtures/tiny", "tests/fixtures/tiny"].map(Path::new);
    let found = places.into_iter().map(|place| place.join(name)).find(|place| place.is_dir());
    found.expect("run in the repository or in worker/")
}

impl Tiny {
    pub(super) fn new(settings: CudaSettings, name: &str) -> Self {
        let source = Source::open(fixture(name)).unwrap();
        let spec = source.spec();
        let layout = layouts(spec, 1).unwrap().remove(0);
        let mut backend = CudaBackend::new(settings).unwrap();
        let model = model::load(&source, &layout, &mut backend, |_| ()).unwrap();
        let limits = StepLimits { slots_max: SLOTS, tokens_per_step_max: 512, context_max: 256 };
        let activations = Activations::plan(&model, limits);
        let blocks = vec![(SLOTS * BLOCKS_EACH) as u32; spec.kv_groups.len()];
        backend.allocate(&memory::plan(spec, &layout, &activations, limits, &blocks)).unwrap();
        let mut tiny = Self { backend, model, activations };
        for rows in tiny.backend.recordings() {
            let batch = tiny.backend.begin_recording(rows).unwrap();
            tiny.operate(&batch);
            tiny.backend.end_recording().unwrap();
        }
        tiny
    }

    fn operate(&mut self, batch: &Batch) {
        let (progress, backend) = (Progress::default(), &mut self.backend);
        forward::forward(&self.model, batch, &self.activations, backend, &progress).unwrap();
        forward::sample(batch, &self.activations, backend, &progress).unwrap();
    }

    /// Runs a step; who did the work, its outcome, and its logits.
    pub(super) fn step(&mut self, batch: Batch) -> (Begun, StepOutput, Vec<f32>) {
        let batch = Arc::new(batch);
        let begun = self.backend.upload(Arc::clone(&batch)).unwrap();
        if begun == Begun::Operations {
            self.operate(&batch);
        }
        let ticket = self.backend.commit().unwrap();
        let outcome = self.backend.collect(ticket).unwrap();
        let logits = self.activations.logits.with_rows(batch.outputs.len());
        (begun, outcome, self.backend.read(logits).unwrap())
    }
}

/// The blocks of a slot, scattered.
pub(super) fn table(slot: usize) -> Vec<BlockId> {
    let last = BLOCKS_EACH * SLOTS - 1;
    [slot, last - slot, SLOTS + slot, last - SLOTS - slot].map(|id| BlockId(id as u32)).to_vec()
}

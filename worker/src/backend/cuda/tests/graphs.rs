//! A model's steps out of recordings have the bits of those that are launched kernel by kernel.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use binfer_proto::{BlockId, SlotId, Token};
use binfer_shard::{Source, layouts};

use super::{Half, Piece, batch, output, settings};
use crate::backend::cuda::{CudaBackend, CudaSettings};
use crate::backend::{Backend, Begun, StepOutput};
use crate::batch::{Batch, TokenInput};
use crate::forward;
use crate::memory::{self, Activations, StepLimits};
use crate::model::{self, Model};
use crate::progress::Progress;

const SLOTS: usize = 40;
const BLOCKS_EACH: usize = 2;

/// A tiny checkpoint on the device.
struct Tiny {
    backend: CudaBackend,
    model: Model,
    activations: Activations,
}

fn fixture(name: &str) -> PathBuf {
    let places = ["../tests/fixtures/tiny", "tests/fixtures/tiny"].map(Path::new);
    let found = places.into_iter().map(|place| place.join(name)).find(|place| place.is_dir());
    found.expect("run in the repository or in worker/")
}

impl Tiny {
    fn new(settings: CudaSettings, name: &str) -> Self {
        let source = Source::open(fixture(name)).unwrap();
        let spec = source.spec();
        let layout = layouts(spec, 1).unwrap().remove(0);
        let mut backend = CudaBackend::new(settings).unwrap();
        let model = model::load(&source, &layout, &mut backend, |_| ()).unwrap();
        let limits = StepLimits { slots_max: SLOTS, tokens_per_step_max: 512, context_max: 128 };
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
    fn step(&mut self, batch: Batch) -> (Begun, StepOutput, Vec<f32>) {
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
fn table(slot: usize) -> Vec<BlockId> {
    [slot, 2 * SLOTS - 1 - slot].map(|id| BlockId(id as u32)).to_vec()
}

/// A prompt of each slot.
fn prompts(rows: usize) -> Batch {
    let prompt = |slot: usize| Piece {
        slot: slot as u32,
        start: 0,
        tokens: (0..1 + slot % 7).map(|at| (3 + 5 * slot + at) as Token % 90).collect(),
        table: table(slot),
    };
    let mut batch = batch(&(0..rows).map(prompt).collect::<Vec<_>>());
    let last = |(slot, row): (usize, &crate::batch::BatchRow)| {
        let token = row.first + row.count - 1;
        output(slot as u32, token, row.count as u32)
    };
    batch.outputs = batch.rows.iter().enumerate().map(last).collect();
    batch
}

/// The `step`-th token after the prompt of each slot, drawn on the device.
fn decode(rows: usize, step: usize) -> Batch {
    let start = |slot: usize| slot % 7 + step;
    let piece = |slot: usize| Piece {
        slot: slot as u32,
        start: start(slot),
        tokens: vec![0],
        table: table(slot),
    };
    let mut batch = batch(&(0..rows).map(piece).collect::<Vec<_>>());
    batch.tokens = (0..rows).map(|slot| TokenInput::LastSample(SlotId(slot as u32))).collect();
    batch.outputs =
        (0..rows).map(|slot| output(slot as u32, slot, start(slot) as u32 + 1)).collect();
    batch
}

#[test]
fn recordings_have_the_bits_of_single_launches() {
    for (half, name) in [(Half::Bf16, "qwen3"), (Half::F16, "llama31"), (Half::Bf16, "mistral")] {
        let Some(settings) = settings(half) else { return };
        let mut graphs = Tiny::new(settings.clone(), name);
        let mut single = Tiny::new(CudaSettings { graphs: false, ..settings }, name);
        for rows in [1, 2, 3, 4, 5, 7, 8, 9, 17, 25, 33, 40] {
            for tiny in [&mut graphs, &mut single] {
                let (begun, outcome, _) = tiny.step(prompts(rows));
                assert_eq!(begun == Begun::Replayed, rows == 1 && tiny.backend.settings.graphs);
                assert!(outcome.sampled.iter().all(|sampled| sampled.finite), "{name}");
            }
            for step in 1..4 {
                let (begun, recorded, logits) = graphs.step(decode(rows, step));
                assert_eq!(begun, Begun::Replayed, "{name} {rows}");
                let (begun, launched, expected) = single.step(decode(rows, step));
                assert_eq!(begun, Begun::Operations);
                assert_eq!(recorded, launched, "{name} {rows} {step}");
                super::same_bits(&logits, &expected, &format!("{name} {rows} {step}"));
            }
        }
    }
}

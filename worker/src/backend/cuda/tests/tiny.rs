//! A small model on the device, fed step by step.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use binfer_proto::{BlockId, SlotId, Token};
use binfer_shard::{Checkpoint, layouts};

use super::{Piece, batch, output};
use crate::backend::cuda::{CudaBackend, CudaSettings, Half};
use crate::backend::{Backend, GraphCapture, RankDevice, StepMode, StepOutcome};
use crate::batch::{Batch, BatchBlocks, BatchRow, TokenInput};
use crate::forward;
use crate::memory::{self, Activations, StepLimits};
use crate::model::{self, Model};
use crate::progress::StepProgress;

pub(super) const SLOTS: usize = 256;
const BLOCKS_EACH: usize = 4;
/// Lengths of [`prompts`] go up to this, so that a step holds one of each slot.
const PROMPT_MAX: usize = 3;

/// What is loaded.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// A checkpoint out of the fixtures, whose shapes nobody publishes: plain kernels.
    Fixture(&'static str),
    /// Random weights with heads of so many elements, 64 or 128: fast kernels.
    Published(usize),
}

/// Both paths, both types, with a window and without.
const ALL: [(Half, What); 8] = [
    (Half::Bf16, What::Fixture("qwen3")),
    (Half::F16, What::Fixture("llama31")),
    (Half::Bf16, What::Fixture("mistral")),
    (Half::Bf16, What::Published(64)),
    (Half::F16, What::Published(128)),
    (Half::F16, What::Fixture("qwen2-moe")),
    (Half::Bf16, What::Fixture("gpt-oss-mxfp4")),
    (Half::Bf16, What::Fixture("deepseek-v3-fp8")),
];

/// Of these, what a sanitizer has time for.
pub(super) fn models() -> impl Iterator<Item = (Half, What)> {
    let has_time = |what| !super::is_sanitized() || matches!(what, What::Published(64));
    ALL.into_iter().filter(move |(_, what)| has_time(*what))
}
/// Of the buckets likewise. Few enough tokens for kernels of our own: see docs/gpu-tests.md.
const SOME_BUCKETS: [usize; 2] = [1, 24];

/// A model on the device.
pub(super) struct Tiny {
    pub(super) backend: CudaBackend,
    pub(super) model: Model,
    pub(super) what: What,
    activations: Activations,
    kv_groups: usize,
}

/// A checkpoint out of the fixtures: its folder, or the GGUF file in it.
pub(super) fn fixture(name: &str) -> PathBuf {
    let folders = ["tiny", "mixtures"].map(|of| Path::new("tests/fixtures").join(of).join(name));
    let places = folders.iter().flat_map(|folder| [folder.clone(), Path::new("..").join(folder)]);
    let found = places.into_iter().find(|place| place.is_dir());
    let folder = found.expect("run in the repository or in worker/");
    let gguf = folder.join("model.gguf");
    if gguf.exists() { gguf } else { folder }
}

/// A model of published proportions, described and nothing more.
fn published(head_dim: usize) -> Checkpoint {
    let heads = 512 / head_dim;
    let config = serde_json::json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "torch_dtype": "bfloat16",
        "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
        "num_attention_heads": heads, "num_key_value_heads": 2, "head_dim": head_dim,
        "vocab_size": 1002, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
        "rope_theta": 1e6, "hidden_act": "silu", "tie_word_embeddings": false,
    });
    let name = format!("binfer-published-{head_dim}-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    Checkpoint::assumed(folder).unwrap()
}

impl Tiny {
    pub(super) fn new(settings: CudaSettings, what: What) -> Self {
        Self::on(super::backend(settings), what)
    }

    /// On a backend that is there, but empty.
    pub(super) fn on(backend: CudaBackend, what: What) -> Self {
        Self::of_rank(backend, what, 0, |_| ())
    }

    /// A rank's part of a model; `join` brings the backend to the others.
    pub(super) fn of_rank(
        mut backend: CudaBackend,
        what: What,
        rank: usize,
        join: impl FnOnce(&mut CudaBackend),
    ) -> Self {
        let source = match what {
            What::Fixture(name) => Checkpoint::open(fixture(name)).unwrap(),
            What::Published(head_dim) => published(head_dim),
        };
        let spec = source.spec();
        let layout = layouts(spec, backend.settings.world as u32).unwrap().remove(rank);
        let tensors = source.local_tensors(&layout).unwrap();
        let weights = match what {
            What::Fixture(_) => backend.load(&source, &tensors, &mut |_| ()),
            What::Published(_) => backend.random_weights(&tensors, &mut |_| ()),
        };
        let model = model::assemble(spec, &layout, &tensors, &weights.unwrap()).unwrap();
        join(&mut backend);
        let limits =
            StepLimits { slots_max: SLOTS as u32, tokens_per_step_max: 512, context_max: 256 };
        let activations = Activations::new(spec, &layout, limits);
        let blocks = vec![(SLOTS * BLOCKS_EACH) as u32; spec.kv_groups.len()];
        let memory_layout = memory::lay_out(spec, &layout, limits, &blocks).unwrap();
        super::allocate(&mut backend, &memory_layout);
        if super::is_sanitized() {
            backend.graphs.buckets.retain(|bucket| SOME_BUCKETS.contains(bucket));
        }
        let mut tiny = Self { backend, model, what, activations, kv_groups: blocks.len() };
        for rows in tiny.backend.graph_buckets() {
            let batch = tiny.backend.begin_capture(rows).unwrap();
            tiny.forward(&batch);
            tiny.sample(&batch);
            tiny.backend.end_capture().unwrap();
        }
        tiny
    }

    /// Logits of an output.
    pub(super) fn vocab(&self) -> usize {
        self.activations.logits.cols
    }

    fn forward(&mut self, batch: &Batch) {
        let (progress, backend) = (StepProgress::default(), &mut self.backend);
        forward::forward(&self.model, batch, &self.activations, backend, &progress).unwrap();
    }

    fn sample(&mut self, batch: &Batch) {
        let (progress, backend) = (StepProgress::default(), &mut self.backend);
        forward::sample(batch, &self.activations, backend, &progress).unwrap();
    }

    /// Runs a step; who did the work, its outcome, and its logits.
    pub(super) fn step(&mut self, batch: Batch) -> (StepMode, StepOutcome, Vec<f32>) {
        self.step_with(batch, |_, _| ())
    }

    /// The same with something to do once all before sampling is enqueued.
    pub(super) fn step_with(
        &mut self,
        batch: Batch,
        before_sampling: impl FnOnce(&mut CudaBackend, StepMode),
    ) -> (StepMode, StepOutcome, Vec<f32>) {
        let logits = self.activations.logits.with_rows(batch.outputs.len());
        let (mode, outcome) = self.run(batch, before_sampling);
        (mode, outcome, self.backend.read(logits).unwrap())
    }

    /// The same without its logits, which are not there where no output wants them.
    pub(super) fn run(
        &mut self,
        mut batch: Batch,
        before_sampling: impl FnOnce(&mut CudaBackend, StepMode),
    ) -> (StepMode, StepOutcome) {
        // Blocks of the same ids in the pools of all kinds of layers.
        let new_blocks = std::mem::take(&mut batch.new_blocks).into_iter().flat_map(|blocks| {
            (0..self.kv_groups).map(move |kv_group| BatchBlocks { kv_group, ..blocks.clone() })
        });
        batch.new_blocks = new_blocks.collect();
        let batch = Arc::new(batch);
        let mode = self.backend.upload(Arc::clone(&batch)).unwrap();
        if mode == StepMode::Eager {
            self.forward(&batch);
        }
        before_sampling(&mut self.backend, mode);
        if mode == StepMode::Eager {
            self.sample(&batch);
        }
        let ticket = self.backend.commit().unwrap();
        (mode, self.backend.collect(ticket).unwrap())
    }
}

/// The blocks of a slot, scattered.
pub(super) fn table(slot: usize) -> Vec<BlockId> {
    let last = BLOCKS_EACH * SLOTS - 1;
    [slot, last - slot, SLOTS + slot, last - SLOTS - slot].map(|id| BlockId(id as u32)).to_vec()
}

fn prompt_len(slot: usize) -> usize {
    1 + slot % PROMPT_MAX
}

/// A prompt of each slot; every token of it has an id below 90.
pub(super) fn prompts(rows: usize) -> Batch {
    let prompt = |slot: usize| Piece {
        slot: slot as u32,
        start: 0,
        tokens: (0..prompt_len(slot)).map(|at| (3 + 5 * slot + at) as Token % 90).collect(),
        table: table(slot),
    };
    // Rows of one token first, as plans have them.
    let mut slots: Vec<usize> = (0..rows).collect();
    slots.sort_by_key(|slot| prompt_len(*slot) > 1);
    let mut batch = batch(&slots.into_iter().map(prompt).collect::<Vec<_>>());
    let last = |row: &BatchRow| {
        output(row.slot.0, row.first + row.count - 1, (row.start + row.count) as u32)
    };
    batch.outputs = batch.rows.iter().map(last).collect();
    batch
}

/// The `step`-th token after the prompt of each slot, sampled on the device.
pub(super) fn decode(rows: usize, step: usize) -> Batch {
    let start = |slot: usize| prompt_len(slot) + step - 1;
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

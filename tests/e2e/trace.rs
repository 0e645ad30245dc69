//! What the decoder asks of a backend, call by call, against `tests/goldens/FAMILY.trace`.
//!
//! `UPDATE_GOLDEN=1 cargo test -p binfer --test e2e -- trace` writes it anew.

use std::sync::Arc;

use binfer_proto::{BlockId, Sampling, SlotId};
use binfer_shard::{Checkpoint, RankLayout, layouts};
use binfer_worker::backend::Backend;
use binfer_worker::backend::call_recorder::CallRecorder;
use binfer_worker::batch::{Batch, BatchBlocks, BatchOutput, BatchRow, TokenInput};
use binfer_worker::forward;
use binfer_worker::memory::{self, Activations, StepLimits};
use binfer_worker::model;
use binfer_worker::progress::StepProgress;

use crate::gguf_writer::{Llama, TINY};
use crate::harness::repository;

/// A decode row and a chunk of a prompt, which is not its last.
fn batch(kv_groups: usize) -> Batch {
    let row = |slot, first, count, start| BatchRow { slot: SlotId(slot), first, count, start };
    let blocks = |slot, kv_group| BatchBlocks {
        slot: SlotId(slot),
        kv_group,
        first: 0,
        ids: vec![BlockId(slot)],
    };
    let new_blocks = (0..kv_groups).flat_map(|of| [blocks(1, of), blocks(0, of)]).collect();
    let known = [5, 6, 7].map(TokenInput::Known);
    Batch {
        opened: Vec::new(),
        new_blocks,
        tokens: [&[TokenInput::LastSample(SlotId(1))], &known[..]].concat(),
        positions: vec![9, 0, 1, 2],
        rows: vec![row(1, 0, 1, 9), row(0, 1, 3, 0)],
        outputs: vec![BatchOutput {
            token: 0,
            slot: SlotId(1),
            sampling: Sampling::GREEDY,
            seed: 0,
            choice: 0,
            position: 10,
            biases: 0,
            logprobs: 0,
        }],
        masked: false,
    }
}

fn trace_of(source: &Checkpoint, layout: &RankLayout) -> String {
    let mut recorder = CallRecorder::new();
    let tensors = source.local_tensors(layout).unwrap();
    let weights: Vec<_> = tensors.iter().map(|tensor| recorder.declare(tensor)).collect();
    let model = model::assemble(source.spec(), layout, &tensors, &weights).unwrap();
    let limits = StepLimits { slots_max: 2, tokens_per_step_max: 8, context_max: 256 };
    let activations = Activations::new(source.spec(), layout, limits);
    let kv_groups = source.spec().kv_groups.len();
    let blocks = vec![4; kv_groups];
    recorder.allocate(&memory::lay_out(source.spec(), layout, limits, &blocks).unwrap());
    let batch = Arc::new(batch(kv_groups));
    let progress = StepProgress::default();
    recorder.upload(Arc::clone(&batch)).unwrap();
    forward::forward(&model, &batch, &activations, &mut recorder, &progress).unwrap();
    forward::sample(&batch, &activations, &mut recorder, &progress).unwrap();
    let ticket = recorder.commit().unwrap();
    recorder.collect(ticket).unwrap();
    recorder.trace().to_owned()
}

/// Compares the traces of a checkpoint with the golden of its family.
fn check(family: &str, source: &Checkpoint) {
    let mut trace = String::new();
    // Four ranks and two KV heads: a KV head is shared, and query heads are divided.
    for (world, rank) in [(1, 0), (4, 3)] {
        let layout = &layouts(source.spec(), world).unwrap()[rank];
        trace += &format!("# rank {rank} of {world}\n{}", trace_of(source, layout));
    }
    let name = format!("tests/goldens/{family}.trace");
    let golden = repository(&name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &trace).unwrap();
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    let differ = expected.lines().zip(trace.lines()).find(|(one, other)| one != other);
    assert!(
        expected == trace,
        "the trace differs from {name} at {differ:?}; if that is meant, run with UPDATE_GOLDEN=1"
    );
}

#[test]
fn trace_of_llama_equals_its_golden() {
    let path = std::env::temp_dir().join(format!("binfer-trace-{}.gguf", std::process::id()));
    Llama { layers: 2, ..TINY }.writer().write_sparse(&path);
    let source = Checkpoint::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    check("llama", &source);
}

#[test]
fn traces_of_the_families_equal_their_goldens() {
    for family in ["mistral", "qwen2", "qwen3"] {
        let folder = repository(&format!("tests/fixtures/tiny/{family}"));
        check(family, &Checkpoint::open(folder).unwrap());
    }
    let mixtures = [
        ("deepseek_v2", "deepseek-v2"),
        ("deepseek_v3", "deepseek-v3"),
        ("gpt_oss", "gpt-oss-mxfp4"),
        ("mixtral", "mixtral"),
        ("qwen2_moe", "qwen2-moe"),
        ("qwen3_moe", "qwen3-moe"),
    ];
    for (family, folder) in mixtures {
        let folder = repository(&format!("tests/fixtures/mixtures/{folder}"));
        check(family, &Checkpoint::open(folder).unwrap());
    }
}

//! A model's steps out of recordings have the bits of those that are launched kernel by kernel.

use binfer_proto::{SlotId, Token};

use super::tiny::{Tiny, table};
use super::{Half, Piece, batch, output, settings};
use crate::backend::Begun;
use crate::backend::cuda::CudaSettings;
use crate::batch::{Batch, TokenInput};

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

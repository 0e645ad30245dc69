//! Tokens drawn on the device are those that the CPU draws from the same logits.

use std::sync::Arc;

use binfer_proto::{Sampling, SlotId};

use super::{Half, Rig, batch, piece, plan};
use crate::backend::args::{Kind, SampleArgs};
use crate::backend::cpu::sample::{Draw, Scratch, draw};
use crate::backend::{Backend, MemoryPlan};
use crate::batch::BatchOutput;

/// Vocabularies: smaller than a tile, one more than a tile, and a real one.
const VOCABS: [usize; 3] = [50, 4097, 151_936];

/// All kinds of drawing.
fn samplings() -> Vec<Sampling> {
    let mut all = vec![Sampling::GREEDY];
    for temperature in [0.3, 1.0, 2.0] {
        for top_k in [0, 1, 7, 40, 1000] {
            for top_p in [1.0, 0.95, 0.5, 0.0] {
                all.push(Sampling { temperature, top_k, top_p, ..Sampling::GREEDY });
            }
        }
    }
    all
}

#[test]
fn the_device_draws_what_the_cpu_draws() {
    for vocab in VOCABS {
        let samplings = samplings();
        let rows = samplings.len();
        let Some(mut rig) = Rig::new(Half::Bf16, vocab as u64) else { return };
        let (at, arena) = rig.place(&[(rows, vocab, Kind::Sum)], true);
        rig.allocate(&MemoryPlan { vocab, ..plan(arena) });
        // Logits in steps of 1/8, so that many are equal.
        let logit = |x: f32| (x * 80.0).round() / 8.0;
        let logits: Vec<f32> = rig.random.floats(rows * vocab).into_iter().map(logit).collect();
        rig.write(at[0], &logits);
        let output = |(row, sampling): (usize, &Sampling)| BatchOutput {
            token: row,
            slot: SlotId(row as u32),
            sampling: *sampling,
            seed: 7 * row as u64 + 1,
            choice: row as u32 % 3,
            position: 100 + row as u32,
        };
        let mut batch = batch(&[piece(0, 0, &vec![0; rows])]);
        batch.outputs = samplings.iter().enumerate().map(output).collect();
        let outputs = batch.outputs.clone();
        rig.backend.upload(Arc::new(batch)).unwrap();
        rig.backend.sample(&SampleArgs { logits: at[0] }).unwrap();
        let got = rig.outcome().sampled;
        let mut scratch = Scratch::for_vocab(vocab);
        for ((logits, output), got) in logits.chunks(vocab).zip(&outputs).zip(got) {
            let BatchOutput { seed, choice, position, .. } = *output;
            let how = Draw { sampling: &output.sampling, seed, choice, position };
            assert_eq!(got, draw(logits, &how, &mut scratch), "{vocab} {:?}", output.sampling);
        }
    }
}

#[test]
fn a_row_that_is_not_finite_says_so_and_the_others_do_not_notice() {
    let Some(mut rig) = Rig::new(Half::Bf16, 1) else { return };
    let (at, arena) = rig.place(&[(3, 5000, Kind::Sum)], true);
    rig.allocate(&MemoryPlan { vocab: 5000, ..plan(arena) });
    let mut logits = rig.random.floats(3 * 5000);
    let mut step = |logits: &[f32]| {
        rig.write(at[0], logits);
        rig.upload(3, true);
        rig.backend.sample(&SampleArgs { logits: at[0] }).unwrap();
        rig.outcome()
    };
    let clean = step(&logits);
    for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        logits[5000 + 4321] = bad;
        let dirty = step(&logits);
        let finite: Vec<bool> = dirty.sampled.iter().map(|sampled| sampled.finite).collect();
        assert_eq!(finite, [true, false, true], "{bad}");
        assert_eq!((clean.sampled[0], clean.sampled[2]), (dirty.sampled[0], dirty.sampled[2]));
    }
}

//! Tokens sampled on the device are those that the CPU samples from the same logits.

use std::sync::Arc;

use binfer_proto::{Bias, Sampling, SlotId, Token};

use super::{Half, Rig, batch, is_sanitized, layout, piece};
use crate::backend::args::{SampleArgs, TensorKind};
use crate::backend::cpu::sample::{LogitsRow, Sampler};
use crate::backend::tests::Random;
use crate::backend::{Backend, MemoryLayout};
use crate::batch::{BatchOutput, SlotTokens};

/// Vocabularies: smaller than a tile, one more than a tile, and a real one.
pub(super) const VOCABS: [usize; 3] = [50, 4097, 151_936];

/// All kinds of sampling.
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
fn the_device_samples_what_the_cpu_samples() {
    for vocab in VOCABS {
        let samplings = samplings();
        let rows = samplings.len();
        let Some(mut rig) = Rig::new(Half::Bf16, vocab as u64) else { return };
        let (at, arena) = rig.place(&[(rows, vocab, TensorKind::Sum)], true);
        rig.allocate(&MemoryLayout { vocab, ..layout(arena) });
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
            biases: 0,
            logprobs: 0,
        };
        let mut batch = batch(&[piece(0, 0, &vec![0; rows])]);
        batch.outputs = samplings.iter().enumerate().map(output).collect();
        let outputs = batch.outputs.clone();
        rig.backend.upload(Arc::new(batch)).unwrap();
        rig.backend.sample(&SampleArgs { logits: at[0] }).unwrap();
        let got = rig.outcome().sampled;
        let (mut cpu, mut none) = (Sampler::new(rows, vocab), Vec::new());
        for ((logits, output), got) in logits.chunks(vocab).zip(&outputs).zip(got) {
            let want = cpu.sample(LogitsRow { output, logits, mask: None }, &mut none);
            assert_eq!(got, want, "{vocab} {:?}", output.sampling);
        }
    }
}

#[test]
fn a_row_that_is_not_finite_says_so_and_the_others_do_not_notice() {
    let Some(mut rig) = Rig::new(Half::Bf16, 1) else { return };
    let (at, arena) = rig.place(&[(3, 5000, TensorKind::Sum)], true);
    rig.allocate(&MemoryLayout { vocab: 5000, ..layout(arena) });
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

/// One of `choices`.
pub(super) fn pick<T: Copy>(random: &mut Random, choices: &[T]) -> T {
    choices[random.below(choices.len())]
}

/// A row of any kind, and what its slot begins with.
pub(super) fn any_row(random: &mut Random, row: usize, vocab: usize) -> (BatchOutput, SlotTokens) {
    let sampling = Sampling {
        temperature: pick(random, &[0.0, 0.3, 1.0, 2.0]),
        top_k: pick(random, &[0, 0, 1, 40]),
        top_p: pick(random, &[1.0, 1.0, 0.9, 0.5]),
        min_p: pick(random, &[0.0, 0.0, 0.01, 0.3, 1.0]),
        repetition_penalty: pick(random, &[1.0, 1.0, 1.3, 0.7]),
        presence_penalty: pick(random, &[0.0, 0.0, 1.5, -0.5]),
        frequency_penalty: pick(random, &[0.0, 0.0, 0.75, -0.25]),
    };
    let token = |random: &mut Random| random.below(vocab) as Token;
    let mut biased: Vec<Token> =
        (0..pick(random, &[0, 0, 1, 300])).map(|_| token(random)).collect();
    biased.sort_unstable();
    biased.dedup();
    let biases: Vec<Bias> =
        biased.into_iter().map(|token| Bias { token, value: 20.0 * random.float() }).collect();
    let history: Vec<Token> = (0..1 + random.below(500)).map(|_| token(random)).collect();
    let output = BatchOutput {
        token: row,
        slot: SlotId(row as u32),
        sampling,
        seed: random.next(),
        choice: 0,
        position: history.len() as u32,
        biases: biases.len(),
        logprobs: pick(random, &[0, 0, 1, 6, 21]),
    };
    let prompt_len = random.below(history.len() + 1);
    (output, SlotTokens { slot: output.slot, prompt_len, history, biases })
}

#[test]
fn penalties_biases_and_logprobs_are_those_of_the_cpu() {
    let (row_count, vocabs) = if is_sanitized() { (30, &VOCABS[..2]) } else { (200, &VOCABS[..]) };
    for &vocab in vocabs {
        let Some(mut rig) = Rig::new(Half::Bf16, 3 + vocab as u64) else { return };
        let (at, arena) = rig.place(&[(row_count, vocab, TensorKind::Sum)], true);
        rig.allocate(&MemoryLayout { vocab, ..layout(arena) });
        let logit = |x: f32| (x * 80.0).round() / 8.0;
        let logits: Vec<f32> =
            rig.random.floats(row_count * vocab).into_iter().map(logit).collect();
        rig.write(at[0], &logits);
        let rows = (0..row_count).map(|row| any_row(&mut rig.random, row, vocab));
        let (mut outputs, slots): (Vec<_>, Vec<_>) = rows.unzip();
        let mut cpu = Sampler::new(row_count, vocab);
        for step in 0..8 {
            let mut batch = batch(&[piece(0, 0, &vec![0; row_count])]);
            // All begin in the first step, every third one again later.
            let begins =
                |slot: &&SlotTokens| step == 0 || (step == 5 && slot.slot.0.is_multiple_of(3));
            let adjusted = |slot: &&SlotTokens| outputs[slot.slot.index()].is_adjusted();
            batch.opened = slots.iter().filter(begins).filter(adjusted).cloned().collect();
            batch.opened.iter().for_each(|tokens| cpu.open(tokens));
            batch.outputs.clone_from(&outputs);
            rig.backend.upload(Arc::new(batch)).unwrap();
            rig.backend.sample(&SampleArgs { logits: at[0] }).unwrap();
            let got = rig.outcome();
            let mut found = Vec::new();
            let rows = outputs.iter().zip(logits.chunks(vocab)).zip(&got.sampled);
            for ((output, logits), got) in rows {
                let want = cpu.sample(LogitsRow { output, logits, mask: None }, &mut found);
                assert_eq!(*got, want, "{vocab} step {step} {output:?}");
            }
            assert_eq!(got.logprobs.len(), found.len());
            for (got, want) in got.logprobs.iter().zip(found) {
                let near = (got.logprob - want.logprob).abs() < 1e-5;
                assert!(got.token == want.token && near, "{vocab} {step}: {got:?} {want:?}");
            }
            outputs.iter_mut().for_each(|output| output.position += 1);
        }
    }
}

//! Masked rows sample what the CPU samples, out of CUDA graphs too, and only once their masks have
//! come.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use binfer_proto::{Mask, Sampling, Token};

use super::sampling::{VOCABS, any_row, pick};
use super::tiny::{Tiny, decode, models, prompts};
use super::{Half, Rig, batch, is_sanitized, layout, piece, settings};
use crate::backend::args::{SampleArgs, TensorKind};
use crate::backend::cpu::sample::{LogitsRow, Sampler};
use crate::backend::cuda::ffi::launch::CudaEvent;
use crate::backend::cuda::{CudaBackend, CudaSettings};
use crate::backend::tests::Random;
use crate::backend::{Backend, MemoryLayout, StepMode, StepOutcome};
use crate::batch::{Batch, BatchOutput};

/// How long a step is watched that must not go on.
const WATCHED: Duration = Duration::from_millis(5);

/// A mask of one token at least, and of any share of the others.
fn any_mask(random: &mut Random, output: usize, vocab: usize) -> Mask {
    let always = random.below(vocab) as Token;
    let of_64 = pick(random, &[0, 1, 20, 63, 64]);
    let allowed = (0..vocab as Token).filter(|token| *token == always || random.below(64) < of_64);
    let allowed: Vec<Token> = allowed.collect();
    Mask::of(output as u32, vocab as u32, allowed)
}

/// Masks of about two thirds of the outputs.
fn any_masks(random: &mut Random, outputs: usize, vocab: usize) -> Vec<Mask> {
    let masked: Vec<usize> = (0..outputs).filter(|_| random.below(3) > 0).collect();
    masked.into_iter().map(|output| any_mask(random, output, vocab)).collect()
}

/// What the CPU samples is what the device sampled, logprobs included.
fn assert_sampled(
    cpu: &mut Sampler,
    (outputs, logits): (&[BatchOutput], &[f32]),
    masks: &[Mask],
    (got, what): (&StepOutcome, &str),
) {
    let (mut masks, mut found) = (masks.iter().peekable(), Vec::new());
    let vocab = logits.len() / outputs.len();
    let rows = outputs.iter().zip(logits.chunks(vocab)).zip(&got.sampled);
    for (index, ((output, logits), got)) in (0..).zip(rows) {
        let mask = masks.next_if(|mask| mask.output == index);
        let want = cpu.sample(LogitsRow { output, logits, mask }, &mut found);
        assert_eq!(*got, want, "{what}, output {index}: {output:?}");
        assert!(mask.is_none_or(|mask| mask.allows(got.token)), "{what}, output {index}");
    }
    assert_eq!(got.logprobs.len(), found.len(), "{what}");
    for (got, want) in got.logprobs.iter().zip(found) {
        let near = (got.logprob - want.logprob).abs() < 1e-5;
        assert!(got.token == want.token && near, "{what}: {got:?} {want:?}");
    }
}

#[test]
fn masked_rows_of_any_kind_sample_what_the_cpu_samples() {
    let (row_count, vocabs) = if is_sanitized() { (20, &VOCABS[..2]) } else { (100, &VOCABS[..]) };
    for &vocab in vocabs {
        let Some(mut rig) = Rig::new(Half::Bf16, 11 + vocab as u64) else { return };
        let (at, arena) = rig.place(&[(row_count, vocab, TensorKind::Sum)], true);
        rig.allocate(&MemoryLayout { vocab, ..layout(arena) });
        let logit = |x: f32| (x * 80.0).round() / 8.0;
        let logits: Vec<f32> =
            rig.random.floats(row_count * vocab).into_iter().map(logit).collect();
        rig.write(at[0], &logits);
        let rows = (0..row_count).map(|row| any_row(&mut rig.random, row, vocab));
        let (mut outputs, slots): (Vec<_>, Vec<_>) = rows.unzip();
        let mut cpu = Sampler::new(row_count, vocab);
        for step in 0..7 {
            let mut batch = batch(&[piece(0, 0, &vec![0; row_count])]);
            let begins = slots.iter().filter(|slot| outputs[slot.slot.index()].is_adjusted());
            batch.opened = begins.filter(|_| step == 0).cloned().collect();
            batch.opened.iter().for_each(|tokens| cpu.open(tokens));
            batch.outputs.clone_from(&outputs);
            // A step without masks stands between those with some; one has none of any row.
            batch.masked = step != 3;
            let masks = match step {
                3 | 5 => Vec::new(),
                _ => any_masks(&mut rig.random, row_count, vocab),
            };
            let is_masked = batch.masked;
            rig.backend.upload(Arc::new(batch)).unwrap();
            if is_masked {
                let early = rig.backend.sample(&SampleArgs { logits: at[0] }).unwrap_err();
                assert!(early.to_string().contains("masks have not come"), "{early}");
                rig.backend.masks(masks.clone()).unwrap();
            }
            rig.backend.sample(&SampleArgs { logits: at[0] }).unwrap();
            let got = rig.outcome();
            let what = format!("{vocab} tokens, step {step}");
            assert_sampled(&mut cpu, (&outputs, &logits), &masks, (&got, &what));
            outputs.iter_mut().for_each(|output| output.position += 1);
        }
    }
}

#[test]
fn what_a_mask_hides_must_be_a_number_all_the_same() {
    let (vocab, rows) = (5000, 3);
    let Some(mut rig) = Rig::new(Half::Bf16, 12) else { return };
    let (at, arena) = rig.place(&[(rows, vocab, TensorKind::Sum)], true);
    rig.allocate(&MemoryLayout { vocab, ..layout(arena) });
    for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        let mut logits = vec![1.0; rows * vocab];
        logits[vocab + 4321] = bad;
        rig.write(at[0], &logits);
        let mut batch = batch(&[piece(0, 0, &[0, 0, 0])]);
        batch.outputs = (0..rows).map(|row| super::output(row as u32, row, 1)).collect();
        batch.masked = true;
        rig.backend.upload(Arc::new(batch)).unwrap();
        let masks = (0..3).map(|row| Mask::of(row, vocab as u32, [4999])).collect();
        rig.backend.masks(masks).unwrap();
        rig.backend.sample(&SampleArgs { logits: at[0] }).unwrap();
        let sampled = rig.outcome().sampled;
        assert_eq!(sampled.iter().map(|row| row.finite).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!([sampled[0].token, sampled[2].token], [4999, 4999], "{bad}");
    }
}

/// The decode step, sampled in several ways, masked: nothing else needs its logits in memory.
fn masked(rows: usize, step: usize) -> Batch {
    let samplings = [
        Sampling::GREEDY,
        Sampling { temperature: 1.0, ..Sampling::GREEDY },
        Sampling { temperature: 0.7, top_k: 5, top_p: 0.9, ..Sampling::GREEDY },
        Sampling { temperature: 1.5, min_p: 0.05, ..Sampling::GREEDY },
    ];
    let mut batch = decode(rows, step);
    for (output, sampling) in batch.outputs.iter_mut().zip(samplings.iter().cycle()) {
        (output.sampling, output.logprobs) = (*sampling, 0);
    }
    batch.masked = true;
    batch
}

/// A CUDA graph does not end by itself; then the step gets its masks.
fn give_late(backend: &mut CudaBackend, mode: StepMode, masks: &[Mask]) {
    let event = CudaEvent::new().unwrap();
    event.record(&backend.device.stream).unwrap();
    thread::sleep(WATCHED);
    assert!(mode == StepMode::Eager || !event.is_passed().unwrap());
    backend.masks(masks.to_vec()).unwrap();
}

#[test]
fn a_graph_samples_once_its_masks_have_come() {
    // A sanitizer may wait for what it has launched.
    if is_sanitized() {
        return;
    }
    for (half, what) in models() {
        let Some(settings) = settings(half) else { return };
        let mut graphs = Tiny::new(settings.clone(), what);
        let mut single = Tiny::new(CudaSettings { graphs: false, ..settings }, what);
        let (vocab, mut random) = (graphs.vocab(), Random(13));
        let mut cpu = Sampler::new(256, vocab);
        for rows in [1, 5, 200] {
            graphs.step(prompts(rows));
            single.step(prompts(rows));
            for step in 1..=3 {
                let mut batch = masked(rows, step);
                batch.masked = step != 2;
                if !batch.masked {
                    batch.outputs.iter_mut().for_each(|output| output.logprobs = 1);
                }
                let masks = if batch.masked { any_masks(&mut random, rows, vocab) } else { vec![] };
                let outputs = batch.outputs.clone();
                let run = |tiny: &mut Tiny| match batch.masked {
                    true => tiny.step_with(batch.clone(), |backend, mode| {
                        give_late(backend, mode, &masks);
                    }),
                    false => tiny.step(batch.clone()),
                };
                let (mode, replayed, logits) = run(&mut graphs);
                assert_eq!(mode, StepMode::Graph);
                let (mode, launched, _) = run(&mut single);
                assert_eq!(mode, StepMode::Eager);
                let name = format!("{half:?} {what:?}: {rows} rows, step {step}");
                assert_eq!(replayed, launched, "{name}");
                assert_sampled(&mut cpu, (&outputs, &logits), &masks, (&replayed, &name));
            }
        }
    }
}

#[test]
fn a_backend_that_waits_for_masks_can_be_left() {
    if is_sanitized() {
        return;
    }
    let Some((half, what)) = models().next() else { return };
    let Some(settings) = settings(half) else { return };
    let mut tiny = Tiny::new(settings, what);
    tiny.step(prompts(3));
    let batch = Arc::new(masked(3, 1));
    assert_eq!(tiny.backend.upload(Arc::clone(&batch)).unwrap(), StepMode::Graph);
    let early = tiny.backend.commit().unwrap_err();
    assert!(early.to_string().contains("masks have not come"), "{early}");
    let began = Instant::now();
    drop(tiny);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

//! Statistics of the head sample what the CPU samples from its logits, and logits that nothing
//! needs are neither written nor read.

use std::sync::Arc;

use binfer_kernels::Target;
use binfer_proto::Sampling;
use binfer_shard::DType;
use half::bf16;

use super::sampling::{any_row, pick};
use super::tiny::{Tiny, decode, models, prompts};
use super::{Half, Piece, Rig, batch, is_sanitized, layout, piece, same_bits, settings};
use crate::backend::args::{HeadArgs, SampleArgs, Tensor, TensorKind};
use crate::backend::cpu::sample::{LogitsRow, Sampler};
use crate::backend::cuda::CudaSettings;
use crate::backend::tests::Random;
use crate::backend::{Backend, MemoryLayout, Sampled, StepMode};
use crate::batch::{Batch, BatchOutput, SlotTokens};

const HIDDEN: usize = 64;
/// Less than a tile, a part of one more, many tiles a block.
const VOCABS: [usize; 4] = [50, 301, 4097, 20_011];
/// Around every kernel's number of outputs.
const OUTPUTS: [usize; 14] = [1, 2, 8, 9, 16, 31, 64, 65, 96, 128, 129, 192, 200, 256];

/// Column `k` is what an output's logits are, over 8, when its hidden state is 1 in `k` and 0 else.
fn column(k: usize, row: usize, vocab: usize, random: &mut Random) -> f32 {
    match k {
        0 => (random.float() * 80.0).round() / 64.0, // many equals
        1 => 0.0,
        2 => row as f32 / 1000.0,
        3 => f32::from(u8::from(row == vocab / 2)) * 4.0,
        4 => row as f32 / -100.0,
        5 => f32::from(u8::from(row % 7 == 3)),
        6 if row == 2 * vocab / 3 => 3e38, // an infinity of this output alone
        7 if row == vocab - 1 => -3e38,
        _ => random.float() / 2.0,
    }
}

/// A head with such columns, and a norm that changes nothing.
fn head(rig: &mut Rig, vocab: usize) -> HeadArgs {
    let mut packed = Vec::new();
    for row in 0..vocab {
        for k in 0..HIDDEN {
            let value = bf16::from_f32(column(k, row, vocab, &mut rig.random));
            packed.extend(value.to_le_bytes());
        }
    }
    let weight = rig.load(DType::BF16, (vocab, HIDDEN), &packed);
    let norm = rig.load(DType::F32, (1, HIDDEN), &1.0_f32.to_le_bytes().repeat(HIDDEN));
    let nowhere = Tensor { offset: 0, rows: 0, cols: 0, kind: TensorKind::Sum };
    HeadArgs { x: nowhere, norm, eps: 1e-6, weight, first_token: 0, logits: nowhere }
}

/// Hidden states: 1 in one place; one of them is not a number.
fn hidden(outputs: usize) -> Vec<f32> {
    let mut x = vec![0.0; outputs * HIDDEN];
    for (output, row) in x.chunks_mut(HIDDEN).enumerate() {
        row[output % 12] = if output % 50 == 47 { f32::NAN } else { 1.0 };
    }
    x
}

/// Rows of every kind, most of which need no logits.
fn rows(random: &mut Random, count: usize, vocab: usize) -> (Vec<BatchOutput>, Vec<SlotTokens>) {
    let row = |row| {
        let (output, tokens) = any_row(random, row, vocab);
        let temperature = pick(random, &[0.0, 0.0, 0.3, 1.0, 1.0, 2.0, 100.0, 1e-7]);
        let sampling = Sampling { temperature, ..Sampling::GREEDY };
        let plain = BatchOutput { sampling, biases: 0, logprobs: 0, ..output };
        (if random.below(4) == 0 { output } else { plain }, tokens)
    };
    let (outputs, mut slots): (Vec<_>, Vec<_>) = (0..count).map(row).unzip();
    slots.retain(|tokens| outputs[tokens.slot.index()].is_adjusted());
    (outputs, slots)
}

/// What sampling reads besides statistics.
fn needs_logits(output: &BatchOutput, vocab: usize) -> bool {
    let Sampling { temperature, top_k, top_p, min_p, .. } = output.sampling;
    let is_limited = (top_k > 0 && (top_k as usize) < vocab) || top_p < 1.0 || min_p > 0.0;
    let is_tiny = temperature > 0.0 && temperature < 1e-5;
    output.is_adjusted() || output.logprobs > 0 || is_tiny || (temperature > 0.0 && is_limited)
}

/// A step of head and sampling, on logits that are poison before.
fn step(rig: &mut Rig, args: &HeadArgs, batch: &Batch) -> (Vec<Sampled>, Vec<f32>) {
    rig.backend.memory.poison(&rig.backend.device.stream).unwrap();
    rig.write(args.x, &hidden(args.x.rows));
    rig.backend.upload(Arc::new(batch.clone())).unwrap();
    rig.backend.head(args).unwrap();
    let few = batch.outputs.len() <= 256 && rig.backend.device.target == Target::Sm90a;
    assert_eq!(rig.backend.sampling.head_partials > 0, few, "who makes statistics");
    rig.backend.sample(&SampleArgs { logits: args.logits }).unwrap();
    let sampled = rig.outcome().sampled;
    (sampled, rig.read(args.logits))
}

fn check(rig: &mut Rig, mut args: HeadArgs, vocab: usize, count: usize, is_decode: bool) {
    let (at, arena) =
        rig.place(&[(count, HIDDEN, TensorKind::Sum), (count, vocab, TensorKind::Sum)], true);
    rig.allocate(&MemoryLayout { vocab, hidden: HIDDEN, ..layout(arena) });
    (args.x, args.logits) = (at[0], at[1]);
    let (outputs, slots) = rows(&mut rig.random, count, vocab);
    let pieces: Vec<Piece> = if is_decode {
        (0..count).map(|slot| piece(slot as u32, 0, &[0])).collect()
    } else {
        vec![piece(0, 0, &vec![0; count])]
    };
    let mut batch = Batch { opened: slots.clone(), outputs: outputs.clone(), ..batch(&pieces) };
    batch.outputs.iter_mut().for_each(|output| output.logprobs = output.logprobs.max(1));
    let (_, logits) = step(rig, &args, &batch);
    batch.outputs.clone_from(&outputs);
    let (got, written) = step(rig, &args, &batch);
    let mut cpu = Sampler::new(count, vocab);
    slots.iter().for_each(|tokens| cpu.open(tokens));
    let all = outputs.iter().zip(logits.chunks(vocab)).zip(written.chunks(vocab));
    for ((output, logits), written) in all {
        let want = cpu.sample(LogitsRow { output, logits, mask: None }, &mut Vec::new());
        let name = format!("{count} outputs of {vocab}, decode {is_decode}: {output:?}");
        assert_eq!(got[output.token], want, "{name}");
        if needs_logits(output, vocab) || rig.backend.device.target != Target::Sm90a {
            same_bits(written, logits, &name);
        } else {
            assert!(written.iter().all(|x| x.to_bits() == u32::MAX), "{name}: logits written");
        }
    }
}

#[test]
fn the_heads_statistics_sample_what_the_cpu_samples() {
    for vocab in VOCABS {
        let Some(mut rig) = Rig::new(Half::Bf16, vocab as u64) else { return };
        let args = head(&mut rig, vocab);
        let some = |count: &usize| !is_sanitized() || ([9, 64].contains(count) && vocab < 5000);
        for count in OUTPUTS.into_iter().filter(some) {
            for is_decode in [false, true] {
                check(&mut rig, args, vocab, count, is_decode);
            }
        }
    }
}

/// Gives a step's outputs samplings of several kinds; `all` asks for all logits.
fn vary(mut batch: Batch, all: bool) -> Batch {
    for (row, output) in batch.outputs.iter_mut().enumerate() {
        let temperature = [0.0, 1.0, 0.7, 100.0][row % 4];
        let top_k = if row % 5 == 4 { 20 } else { 0 };
        output.sampling = Sampling { temperature, top_k, ..Sampling::GREEDY };
        output.seed = row as u64;
        output.logprobs = u8::from(all || row % 7 == 6);
    }
    batch
}

#[test]
fn graphs_sample_without_logits_what_the_cpu_samples_from_them() {
    for (half, what) in models() {
        let Some(settings) = settings(half) else { return };
        let mut graphs = Tiny::new(settings.clone(), what);
        let single = CudaSettings { graphs: false, ..settings };
        let (mut launched, mut all) = (Tiny::new(single.clone(), what), Tiny::new(single, what));
        for rows in if is_sanitized() { [1, 5, 16, 24] } else { [1, 5, 40, 200] } {
            for step in 0..if is_sanitized() { 2 } else { 4 } {
                let batch = || if step == 0 { prompts(rows) } else { decode(rows, step) };
                let (_, _, logits) = all.step(vary(batch(), true));
                let (mode, got) = graphs.run(vary(batch(), false), |_, _| ());
                assert!(mode == StepMode::Graph || step == 0);
                let (_, same) = launched.run(vary(batch(), false), |_, _| ());
                assert_eq!(got, same, "{half:?} {what:?}, {rows} rows, step {step}");
                let outputs = vary(batch(), false).outputs;
                let vocab = logits.len() / rows;
                let mut cpu = Sampler::new(super::tiny::SLOTS, vocab);
                for (row, output) in outputs.iter().enumerate() {
                    let logits = &logits[row * vocab..][..vocab];
                    let want =
                        cpu.sample(LogitsRow { output, logits, mask: None }, &mut Vec::new());
                    let name = format!("{half:?} {what:?}, {rows} rows, step {step}, row {row}");
                    assert_eq!(got.sampled[row], want, "{name}");
                }
            }
        }
    }
}

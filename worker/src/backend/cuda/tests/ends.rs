//! Both ends of a model: rows of the embedding, logits of the head and what is sampled from them,
//! of any number of rows. All kinds of sampling are in `sampling.rs`.

use std::sync::Arc;

use binfer_proto::{Sampling, Token};
use binfer_shard::DType;

use super::{
    HALVES, Half, MemoryLayout, Rig, batch, is_sanitized, layout, near, numbers_of_tokens, oracle,
    output, piece, same_bits, tokens_max,
};
use crate::backend::Backend;
use crate::backend::args::{EmbedArgs, HeadArgs, SampleArgs, TensorKind};
use crate::backend::cpu::sample::{LogitsRow, Sampler};

const EPS: f32 = 1e-5;
/// Width and vocabulary: even and odd, no multiple of a tile, and one that the library takes.
const HEADS: [(usize, usize); 4] = [(64, 301), (77, 302), (320, 515), (128, 304)];
/// Numbers of outputs with widths and vocabularies of more tiles than blocks, and of blocks that
/// divide the width.
const LARGE_HEADS: [(usize, usize, usize); 8] = [
    (1, 64, 8456),
    (9, 64, 8456),
    (17, 64, 8456),
    (33, 64, 8456),
    (129, 64, 24_584),
    (1, 1032, 120),
    (16, 1032, 120),
    (255, 1032, 120),
];
/// Tokens of a step whose logits are wanted.
const FED: usize = 60;

/// All numbers of tokens, and that of the largest step.
fn numbers() -> impl Iterator<Item = usize> {
    numbers_of_tokens().chain((!is_sanitized()).then(tokens_max))
}

#[test]
fn embedding_is_a_row_of_the_table_or_zero() {
    for half in HALVES {
        let Some(mut rig) = Rig::new(half, 3) else { return };
        for cols in [64, 96] {
            let table = rig.weight(DType::Q8_0, 50, cols);
            for tokens in numbers() {
                let (at, arena) = rig.place(&[(tokens, cols, TensorKind::Sum)], true);
                rig.allocate(&layout(arena));
                // Other ranks' tokens on both sides of the table's.
                let ids: Vec<Token> =
                    (0..tokens as Token).map(|token| 98 + 7 * token % 54).collect();
                rig.backend.upload(Arc::new(batch(&[piece(0, 0, &ids)]))).unwrap();
                let args = EmbedArgs { table: table.weight, first_token: 100, out: at[0] };
                let zero = vec![0.0; cols];
                let row = |id: &Token| {
                    let row = (*id as usize).checked_sub(100).and_then(|row| table.rows.get(row));
                    row.unwrap_or(&zero).clone()
                };
                let want: Vec<f64> = ids.iter().flat_map(row).collect();
                for _ in 0..2 {
                    rig.backend.embed(&args).unwrap();
                    assert_eq!(oracle::wide(&rig.read(at[0])), want, "{half:?} {tokens} {cols}");
                }
                rig.outcome();
            }
        }
    }
}

/// Memory for steps of so many outputs.
fn layout_of_outputs(arena: usize, outputs: usize, vocab: usize) -> MemoryLayout {
    let (outputs_max, slots_max) = (outputs.max(512), outputs.max(512));
    MemoryLayout { vocab, outputs_max, slots_max, blocks_per_slot: vec![1], ..layout(arena) }
}

#[test]
fn the_head_makes_logits_of_output_rows_only() {
    for half in HALVES {
        let Some(mut rig) = Rig::new(half, 0) else { return };
        for (index, outputs) in numbers().enumerate() {
            rig.begin(index as u64 + 1);
            check_head(&mut rig, outputs, HEADS[index % HEADS.len()]);
            check_head(&mut rig, outputs, HEADS[(index + 1) % HEADS.len()]);
        }
        for (outputs, cols, vocab) in LARGE_HEADS {
            check_head(&mut rig, outputs, (cols, vocab));
        }
    }
}

fn check_head(rig: &mut Rig, outputs: usize, (cols, vocab): (usize, usize)) {
    let what = format!("{:?} {outputs} of {cols}, {vocab}", rig.half());
    let (norm, weight) = (rig.weight(DType::F32, 1, cols), rig.weight(DType::BF16, vocab, cols));
    let (at, arena) =
        rig.place(&[(FED, cols, TensorKind::Sum), (outputs, vocab, TensorKind::Sum)], true);
    rig.allocate(&MemoryLayout { hidden: cols, ..layout_of_outputs(arena, outputs, vocab) });
    let hidden = rig.random.floats(FED * cols);
    rig.write(at[0], &hidden);
    let mut batch = batch(&[piece(0, 0, &[0; FED])]);
    let token = |output: usize| (7 * output + 3) % FED;
    batch.outputs = (0..outputs).map(|o| output(o as u32, token(o), FED as u32)).collect();
    rig.backend.upload(Arc::new(batch)).unwrap();
    let args = HeadArgs {
        x: at[0],
        norm: norm.weight,
        eps: EPS,
        weight: weight.weight,
        first_token: 0,
        logits: at[1],
    };
    let mut run = || {
        rig.backend.head(&args).unwrap();
        rig.read(at[1])
    };
    let (got, again) = (run(), run());
    let row = |o: usize| oracle::rms_norm(&hidden[token(o) * cols..][..cols], &norm.rows[0], EPS);
    let of_tokens: Vec<_> = (0..FED).map(|o| oracle::gemm(&row(o), &weight.rows)).collect();
    let want: Vec<_> = (0..outputs).flat_map(|o| of_tokens[o % FED].clone()).collect();
    near(&got, &want, rig.half(), &what);
    same_bits(&got, &again, &what);
    rig.outcome();
}

#[test]
fn any_number_of_rows_samples_what_the_cpu_samples() {
    let samplings = [
        Sampling::GREEDY,
        Sampling { temperature: 0.7, ..Sampling::GREEDY },
        Sampling { temperature: 1.0, top_k: 40, top_p: 0.9, ..Sampling::GREEDY },
    ];
    let Some(mut rig) = Rig::new(Half::Bf16, 0) else { return };
    for (index, rows) in numbers().enumerate() {
        rig.begin(index as u64 + 1);
        let vocab = [301, 1000, 4097][index % 3];
        let (at, arena) = rig.place(&[(rows, vocab, TensorKind::Sum)], true);
        rig.allocate(&layout_of_outputs(arena, rows, vocab));
        let logits: Vec<f32> =
            rig.random.floats(rows * vocab).into_iter().map(|x| (x * 80.0).round() / 8.0).collect();
        rig.write(at[0], &logits);
        let mut batch = batch(&[piece(0, 0, &vec![0; rows])]);
        batch.outputs = (0..rows).map(|row| output(row as u32, row, 9)).collect();
        for (row, output) in batch.outputs.iter_mut().enumerate() {
            (output.sampling, output.seed) = (samplings[row % samplings.len()], row as u64);
        }
        let (mut cpu, mut none) = (Sampler::new(rows, vocab), Vec::new());
        let outputs = batch.outputs.iter().zip(logits.chunks(vocab));
        let want: Vec<_> = outputs
            .map(|(output, logits)| cpu.sample(LogitsRow { output, logits, mask: None }, &mut none))
            .collect();
        let batch = Arc::new(batch);
        for _ in 0..2 {
            rig.backend.upload(Arc::clone(&batch)).unwrap();
            rig.backend.sample(&SampleArgs { logits: at[0] }).unwrap();
            assert_eq!(rig.outcome().sampled, want, "{rows} of {vocab}");
        }
    }
}

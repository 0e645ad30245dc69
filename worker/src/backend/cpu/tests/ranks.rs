//! Two ranks of one process: sums, gathers and digests are the same on both.

use std::sync::mpsc::channel;

use binfer_shard::DType;

use super::{KvDtype, Level, Rig, assert_near, oracle, place};
use crate::backend::args::{EmbedArgs, HeadArgs, LinearOutArgs, SampleArgs};
use crate::backend::{Backend, RankDevice, StepOutcome};

const HIDDEN: usize = 64;
/// Rows of the vocabulary on each rank.
const VOCAB: [usize; 2] = [70, 33];
/// Inputs of the gemm on each rank. The ranks share the block in the middle.
const COLS: usize = 64;
const FED: [std::ops::Range<usize>; 2] = [0..40, 8..64];

/// What one rank knows afterwards.
struct Outcome {
    embedded: Vec<f32>,
    summed: Vec<f32>,
    sums: Vec<Vec<oracle::Sum>>,
    logits: Vec<f32>,
    step: StepOutcome,
}

/// Ones: if every rank added it, there would be two.
fn bias() -> Vec<u8> {
    1_f32.to_le_bytes().repeat(HIDDEN)
}

fn run(rank: usize, rig: &mut Rig) -> Outcome {
    let norm = rig.norm(HIDDEN).weight;
    rig.random.0 += rank as u64;
    let table = rig.weight(&[(DType::Q8_0, VOCAB[rank])], HIDDEN, 0..HIDDEN).weight;
    let microkernel = rig.weight(&[(DType::Q4_1, HIDDEN)], COLS, FED[rank].clone());
    let fed = FED[rank].len();
    let vocab = VOCAB[0] + VOCAB[1];
    let (at, arena) = place(&[(3, HIDDEN), (3, fed), (2, vocab)]);
    rig.allocate(arena, vocab, Vec::new());
    rig.upload_tokens(&[5, 72, 102], &[2, 0]);
    let (x, first_token) = (at[0], [0, VOCAB[0]][rank]);
    rig.backend.embed(&EmbedArgs { table, first_token, out: x }).unwrap();
    let embedded = rig.read(x);
    let inputs = rig.random.floats(3 * fed);
    rig.write(at[1], &inputs);
    let bias = Some(rig.weight_of(&[(DType::F32, HIDDEN)], 1, 0..1, &[bias()]).weight);
    let args = LinearOutArgs {
        x: at[1],
        weight: microkernel.weight,
        bias,
        residual: x,
        out: x,
        next: None,
    };
    rig.backend.linear_out(&args).unwrap();
    let sums =
        inputs.chunks(fed).map(|x| oracle::gemm(&oracle::wide(x), &microkernel.rows)).collect();
    let summed = rig.read(x);
    let logits = at[2];
    let args = HeadArgs { x, norm, eps: 1e-5, weight: table, first_token, logits };
    rig.backend.head(&args).unwrap();
    rig.backend.sample(&SampleArgs { logits }).unwrap();
    let step = rig.outcome();
    Outcome { embedded, summed, sums, logits: rig.read(logits), step }
}

#[test]
fn ranks_agree_to_the_bit() {
    let (send, receive) = channel::<Vec<u8>>();
    let other = std::thread::spawn(move || {
        let mut rig = Rig::new(Level::best(), 1, KvDtype::F32);
        let id = receive.recv().unwrap();
        let _abort = rig.backend.join(&id, 1, 2).unwrap();
        run(1, &mut rig)
    });
    let mut rig = Rig::new(Level::best(), 1, KvDtype::F32);
    let id = rig.backend.comm_id(2).unwrap();
    let _abort = rig.backend.join(&id, 0, 2).unwrap();
    send.send(id).unwrap();
    let (one, other) = (run(0, &mut rig), other.join().unwrap());
    assert_eq!(one.embedded, other.embedded);
    assert_eq!(one.summed, other.summed);
    assert_eq!(one.logits, other.logits);
    assert_eq!(one.step, other.step);
    assert!(one.step.sampled.iter().all(|sampled| sampled.finite));
    let pairs = one.sums.iter().flatten().zip(other.sums.iter().flatten()).zip(&one.embedded);
    let want: Vec<_> = pairs
        .map(|((a, b), residual)| oracle::Sum {
            value: a.value + b.value + f64::from(*residual) + 1.0,
            size: a.size + b.size + f64::from(residual.abs()) + 1.0,
        })
        .collect();
    assert_near(&one.summed, &want, 3e-6, "sum over ranks");
}

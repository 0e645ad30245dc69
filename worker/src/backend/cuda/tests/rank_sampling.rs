//! What several ranks sample with penalties, biases and logprobs: what the CPU samples from the
//! same logits, which are one rank's but for rounding.

use binfer_proto::{Bias, Sampling, SlotId, Token};

use super::goldens::bound;
use super::ranks::say;
use super::tiny::{SLOTS, Tiny, table};
use super::{Half, Piece, batch, output, settings};
use crate::backend::Sampled;
use crate::backend::cpu::sample::{LogitsRow, Sampler};
use crate::batch::{Batch, SlotTokens};

/// Slots that nothing was sampled in.
const FIRST_SLOT: usize = 200;
const STEPS: usize = 8;
/// Every kind of adjustment, greedy and at a temperature; the last row has none.
const ROWS: [Sampling; 5] = [
    Sampling { repetition_penalty: 1.3, ..Sampling::GREEDY },
    Sampling { presence_penalty: 1.5, frequency_penalty: 0.75, ..Sampling::GREEDY },
    Sampling { repetition_penalty: 0.7, temperature: 1.0, top_k: 40, ..Sampling::GREEDY },
    Sampling { frequency_penalty: -0.5, temperature: 0.7, min_p: 0.05, ..Sampling::GREEDY },
    Sampling::GREEDY,
];

/// Biases of the rows with an even number.
fn biases(row: usize) -> Vec<Bias> {
    let bias = |token: Token| Bias { token, value: (token % 5) as f32 - 2.0 };
    if row.is_multiple_of(2) { (1..60).step_by(4).map(bias).collect() } else { Vec::new() }
}

/// The rows' next step, where each has the tokens of `histories`; with what their slots begin with,
/// if `begins`.
fn step(histories: &[Vec<Token>], begins: bool) -> Batch {
    let slot = |row: usize| FIRST_SLOT + row;
    let piece = |(row, history): (usize, &Vec<Token>)| Piece {
        slot: slot(row) as u32,
        start: history.len() - 1,
        tokens: vec![history[history.len() - 1]],
        table: table(slot(row)),
    };
    let mut batch = batch(&histories.iter().enumerate().map(piece).collect::<Vec<_>>());
    let rows = ROWS.iter().zip(histories).enumerate();
    batch.outputs = rows
        .map(|(row, (sampling, history))| {
            let mut output = output(slot(row) as u32, row, history.len() as u32);
            (output.sampling, output.seed) = (*sampling, row as u64);
            (output.biases, output.logprobs) = (biases(row).len(), 6);
            output
        })
        .collect();
    let opened = batch.outputs.iter().zip(histories).enumerate();
    batch.opened = opened
        .filter(|(_, (output, _))| begins && output.is_adjusted())
        .map(|(row, (output, history))| SlotTokens {
            slot: SlotId(output.slot.0),
            prompt_len: 1,
            history: history.clone(),
            biases: biases(row),
        })
        .collect();
    batch
}

/// Runs a step and has the CPU sample from its logits, too.
fn run(tiny: &mut Tiny, cpu: &mut Sampler, batch: Batch) -> (Vec<Sampled>, Vec<f32>) {
    batch.opened.iter().for_each(|tokens| cpu.open(tokens));
    let outputs = batch.outputs.clone();
    let (_, outcome, logits) = tiny.step(batch);
    let (mut want, mut found) = (Vec::new(), Vec::new());
    for (output, logits) in outputs.iter().zip(logits.chunks(logits.len() / outputs.len())) {
        want.push(cpu.sample(LogitsRow { output, logits, mask: None }, &mut found));
    }
    assert_eq!(outcome.sampled, want);
    assert_eq!(outcome.logprobs.len(), found.len());
    for (got, want) in outcome.logprobs.iter().zip(&found) {
        assert!(got.token == want.token && (got.logprob - want.logprob).abs() < 1e-5, "{got:?}");
        say(&format!("logprob of {}: {:x}", got.token, got.logprob.to_bits()));
    }
    say(&format!("adjusted {:?} digest {:x}", outcome.sampled, outcome.digest));
    (outcome.sampled, logits)
}

/// Rows of a model that lies on several ranks, beside the same model on one, which is told what the
/// ranks drew.
pub(super) fn check(tiny: &mut Tiny, name: &str) {
    let mut alone = Tiny::new(settings(Half::Bf16).unwrap(), tiny.what);
    let mut histories: Vec<Vec<Token>> =
        (0..ROWS.len()).map(|row| vec![7 + row as Token]).collect();
    let [mut ranks, mut one] = [0, 1].map(|_| Sampler::new(SLOTS, tiny.vocab()));
    for index in 0..STEPS {
        let (sampled, logits) = run(tiny, &mut ranks, step(&histories, index == 0));
        let (_, expected) = run(&mut alone, &mut one, step(&histories, true));
        let largest = expected.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        let differences = logits.iter().zip(&expected).map(|(got, want)| (got - want).abs());
        let error = differences.fold(0.0, f32::max) / largest;
        assert!(
            error <= bound(name),
            "{name}, step {index}: {error} where {} is allowed",
            bound(name)
        );
        for (history, sampled) in histories.iter_mut().zip(sampled) {
            history.push(sampled.token);
        }
    }
}

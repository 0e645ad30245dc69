//! A request whose logits are not numbers fails alone, and harms nobody who gets its blocks next.

use binfer_proto::{SlotId, Token};

use super::tiny::{Tiny, What, models, table};
use super::{Piece, batch, is_sanitized, output, same_bits, settings};
use crate::backend::Sampled;
use crate::backend::cuda::CudaSettings;
use crate::batch::{Batch, TokenInput};

/// Tokens of prompts lie below, and one of those from here on has an embedding that is poisoned.
const PROMPT_TOKENS: usize = 70;
/// The sequence that meets it, and who gets its blocks afterwards.
const VICTIM: usize = 1;
const HEIR: u32 = 3;
/// A page and a bit, so that a page is left half full.
const PROMPT: usize = 70;

/// Rows of a step: slot, whose blocks, first position.
fn step(rows: &[(u32, usize, usize)], tokens: &[Vec<Token>]) -> Batch {
    let piece = |((slot, owner, start), tokens): (&(u32, usize, usize), &Vec<Token>)| Piece {
        slot: *slot,
        start: *start,
        tokens: tokens.clone(),
        table: table(*owner),
    };
    let mut batch = batch(&rows.iter().zip(tokens).map(piece).collect::<Vec<_>>());
    batch.outputs = batch
        .rows
        .iter()
        .map(|row| output(row.slot.0, row.first + row.count - 1, (row.start + row.count) as u32))
        .collect();
    batch
}

/// One token of each row, as sampled by the step before.
fn next(rows: &[(u32, usize, usize)]) -> Batch {
    let mut batch = step(rows, &vec![vec![0]; rows.len()]);
    batch.tokens = rows.iter().map(|row| TokenInput::LastSample(SlotId(row.0))).collect();
    batch
}

/// What each step drew, with the row's logits.
type Drawn = Vec<Vec<(Sampled, Vec<f32>)>>;

/// Whether `bad` was sampled by somebody who would then feed it.
fn is_fed(drawn: &Drawn, bad: Token) -> bool {
    let of_step = |(step, rows): (usize, &Vec<(Sampled, Vec<f32>)>)| {
        let mut rows = rows.iter().enumerate();
        rows.any(|(row, (sampled, _))| sampled.token == bad && (step > 2 || row != VICTIM))
    };
    drawn.iter().enumerate().any(of_step)
}

/// Three sequences, one of which meets `bad`; then another one in its blocks.
fn serve(tiny: &mut Tiny, bad: Token) -> Drawn {
    let prompt = |seed: usize, len: usize| -> Vec<Token> {
        (0..len).map(|at| ((seed + 3 * at) % PROMPT_TOKENS) as Token).collect()
    };
    let mut prompts: Vec<Vec<Token>> = (0..3).map(|slot| prompt(5 * slot, PROMPT)).collect();
    prompts[VICTIM][3] = bad;
    let all = |start| [(0, 0, start), (VICTIM as u32, VICTIM, start), (2, 2, start)];
    let mut steps = vec![step(&all(0), &prompts)];
    steps.extend([next(&all(PROMPT)), next(&all(PROMPT + 1))]);
    // The heir is shorter: what its owner before wrote lies behind it in the same page.
    let heir = |start| [(0, 0, PROMPT + 2), (2, 2, PROMPT + 2), (HEIR, VICTIM, start)];
    let mut joined = step(&heir(0), &[vec![0], vec![0], prompt(11, 20)]);
    joined.tokens[0] = TokenInput::LastSample(SlotId(0));
    joined.tokens[1] = TokenInput::LastSample(SlotId(2));
    steps.push(joined);
    let end = if is_sanitized() { 22 } else { 50 };
    steps.extend((20..end).map(|start| next(&[(HEIR, VICTIM, start)])));
    let run = |batch: Batch| {
        let rows = batch.outputs.len();
        let (_, outcome, logits) = tiny.step(batch);
        let logits = logits.chunks(logits.len() / rows).map(<[f32]>::to_vec);
        outcome.sampled.into_iter().zip(logits).collect()
    };
    steps.into_iter().map(run).collect()
}

#[test]
fn what_is_not_a_number_stays_with_its_request() {
    for (half, what) in models() {
        // Tied embeddings would poison everybody's logits.
        if matches!(what, What::Fixture("qwen3" | "llama31")) {
            continue;
        }
        for graphs in [false, true].into_iter().skip(usize::from(is_sanitized())) {
            let Some(settings) = settings(half) else { return };
            let settings = CudaSettings { graphs, ..settings };
            let clean = |bad| (bad, serve(&mut Tiny::new(settings.clone(), what), bad));
            let mut candidates = (PROMPT_TOKENS as Token..).map(clean);
            let (bad, want) = candidates.find(|(bad, drawn)| !is_fed(drawn, *bad)).unwrap();
            let mut dirty = Tiny::new(settings.clone(), what);
            let (weights, device) = (&dirty.backend.weights, &dirty.backend.device);
            weights.poison_row(dirty.model.embed, bad as usize, &device.stream);
            let got = serve(&mut dirty, bad);
            for (step, (want, got)) in want.iter().zip(&got).enumerate() {
                for (row, (want, got)) in want.iter().zip(got).enumerate() {
                    let name = format!("{half:?} {what:?} {graphs}: step {step}, row {row}");
                    assert!(want.0.finite, "{name}");
                    if step < 3 && row == VICTIM {
                        assert!(!got.0.finite, "{name}");
                    } else {
                        assert_eq!(want.0, got.0, "{name}");
                        same_bits(&want.1, &got.1, &name);
                    }
                }
            }
        }
    }
}

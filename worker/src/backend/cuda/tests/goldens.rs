//! The tiny checkpoints in bfloat16 against transformers in single precision.

use binfer_proto::Token;
use serde_json::Value;

use super::tiny::{Tiny, What, fixture, table};
use super::{Half, Piece, batch, is_sanitized, output, settings};
use crate::backend::cuda::CudaSettings;

/// Divides no long prompt, no window and no block.
const CHUNK: usize = 7;
/// Largest difference of a logit, relative to the largest logit: 1.5 times that of transformers in
/// bfloat16 on an H100, over the checkpoint's prompts.
const BOUNDS: [(&str, f32); 9] = [
    ("llama-bias", 0.0398),
    ("llama-dynamic", 0.0600),
    ("llama-linear", 0.0350),
    ("llama2", 0.0354),
    ("llama31", 0.0262),
    ("mistral", 0.0358),
    ("qwen2", 0.0323),
    ("qwen3", 0.0211),
    ("qwen3-yarn", 0.0519),
];

/// What is allowed to a checkpoint.
pub(super) fn bound(name: &str) -> f32 {
    BOUNDS.iter().find(|(known, _)| *known == name).unwrap().1
}

/// Logits after the last of `tokens`, which follow so many others and are fed `chunk` at a time.
pub(super) fn feed(
    tiny: &mut Tiny,
    slot: usize,
    (before, tokens): (usize, &[Token]),
    chunk: usize,
) -> Vec<f32> {
    let mut logits = Vec::new();
    for (index, tokens) in tokens.chunks(chunk).enumerate() {
        let start = before + index * chunk;
        let (tokens, end) = (tokens.to_vec(), start + tokens.len());
        let mut batch = batch(&[Piece { slot: slot as u32, start, tokens, table: table(slot) }]);
        batch.outputs = vec![output(slot as u32, batch.tokens.len() - 1, end as u32)];
        logits = tiny.step(batch).2;
    }
    logits
}

/// Largest difference of a logit, relative to the largest logit that is wanted.
pub(super) fn relative(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let largest =
        |numbers: &mut dyn Iterator<Item = f32>| numbers.map(f32::abs).fold(0.0, f32::max);
    assert!(got.iter().all(|x| x.is_finite()), "a logit is no number");
    let difference = largest(&mut got.iter().zip(want).map(|(got, want)| got - want));
    difference / largest(&mut want.iter().copied())
}

#[test]
fn tiny_checkpoints_are_as_near_as_bfloat16_can_be() {
    // What a sanitizer has time for, and what no library takes part in: see docs/gpu-tests.md.
    let (some, tokens_max) = if is_sanitized() { (1, 128) } else { (BOUNDS.len(), usize::MAX) };
    for (name, bound) in BOUNDS.into_iter().take(some) {
        let Some(settings) = settings(Half::Bf16) else { return };
        let text = std::fs::read_to_string(fixture(name).join("golden.json")).unwrap();
        let golden: Value = serde_json::from_str(&text).unwrap();
        // Of a CUDA graph the frequencies are fixed.
        let mut tiny = Tiny::new(CudaSettings { graphs: false, ..settings }, What::Fixture(name));
        for (index, case) in golden["prompts"].as_array().unwrap().iter().enumerate() {
            let tokens: Vec<Token> = serde_json::from_value(case["prompt_ids"].clone()).unwrap();
            if tokens.len() > tokens_max {
                continue;
            }
            let want: Vec<f32> = serde_json::from_value(case["logits"].clone()).unwrap();
            let longest = case["longest"].as_u64().unwrap_or(256);
            tiny.model.limit_positions(longest as u32);
            for (pass, chunk) in [CHUNK, tokens.len()].into_iter().enumerate() {
                let got = feed(&mut tiny, 2 * index + pass, (0, &tokens), chunk);
                let error = relative(&got, &want);
                eprintln!("{name}, {} tokens by {chunk}: {error:.5}", tokens.len());
                assert!(error <= bound, "{name}: {error} where {bound} is allowed");
            }
        }
    }
}

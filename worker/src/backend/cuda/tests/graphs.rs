//! A model's steps out of CUDA graphs have the bits of those that are launched kernel by kernel.

use super::tiny::{SLOTS, Tiny, decode, models, prompts};
use super::{is_sanitized, same_bits, settings};
use crate::backend::cuda::CudaSettings;
use crate::backend::{GraphCapture, StepMode};

/// Numbers of rows in a bucket that are real.
fn parts(bucket: usize) -> Vec<usize> {
    let mut parts = vec![1, bucket - 1, bucket];
    parts.retain(|rows| *rows > 0);
    parts.dedup();
    parts
}

#[test]
fn every_bucket_has_the_bits_of_single_launches_whatever_part_of_it_is_real() {
    for (half, what) in models() {
        let Some(settings) = settings(half) else { return };
        let mut graphs = Tiny::new(settings.clone(), what);
        let mut single = Tiny::new(CudaSettings { graphs: false, ..settings }, what);
        let buckets = graphs.backend.graph_buckets();
        let all = buckets.len() == 25 && buckets.last() == Some(&SLOTS);
        assert!(all || is_sanitized(), "{buckets:?}");
        for bucket in buckets {
            for tiny in [&mut graphs, &mut single] {
                tiny.backend.graphs.buckets = vec![bucket];
            }
            for rows in parts(bucket) {
                let name = |step| format!("{half:?} {what:?}: {rows} of {bucket}, step {step}");
                for tiny in [&mut graphs, &mut single] {
                    let (_, outcome, _) = tiny.step(prompts(rows));
                    assert!(outcome.sampled.iter().all(|sampled| sampled.finite), "{}", name(0));
                }
                for step in 1..if is_sanitized() { 3 } else { 4 } {
                    let (mode, replayed, logits) = graphs.step(decode(rows, step));
                    assert_eq!(mode, StepMode::Graph, "{}", name(step));
                    let (mode, launched, expected) = single.step(decode(rows, step));
                    assert_eq!(mode, StepMode::Eager, "{}", name(step));
                    same_bits(&logits, &expected, &name(step));
                    assert_eq!(replayed, launched, "{}", name(step));
                }
            }
        }
    }
}

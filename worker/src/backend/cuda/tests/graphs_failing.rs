//! Captures that fail, steps that nobody collects, and the warmup.

use std::sync::Arc;

use super::tiny::{Tiny, What, decode, models, prompts};
use super::{Half, same_bits, settings};
use crate::backend::cuda::ffi::memory::DeviceBuffer;
use crate::backend::cuda::ring::RING_SLOTS;
use crate::backend::{Backend, GraphCapture, StepMode};
use crate::batch::{Batch, TokenInput};

const ROWS: usize = 3;

#[test]
fn a_capture_that_fails_is_dropped_and_steps_go_on() {
    let Some(settings) = settings(Half::Bf16) else { return };
    let mut tiny = Tiny::new(settings, What::Published(64));
    tiny.step(prompts(ROWS));
    // The same step again and again: no input is what the one before drew.
    let step = || Batch { tokens: vec![TokenInput::Known(7); ROWS], ..decode(ROWS, 1) };
    let (_, _, want) = tiny.step(step());
    tiny.backend.begin_capture(ROWS).unwrap();
    let taken = DeviceBuffer::new(1 << 20);
    assert!(taken.is_err(), "memory can be taken while this thread captures");
    assert!(tiny.backend.end_capture().is_err(), "a capture that failed is kept");
    for _ in 0..2 {
        let (mode, _, got) = tiny.step(step());
        assert_eq!(mode, StepMode::Graph);
        same_bits(&got, &want, "after a capture");
        // Nobody ends this one.
        tiny.backend.begin_capture(ROWS).unwrap();
    }
}

#[test]
fn a_step_that_the_ring_has_no_room_for_is_refused() {
    let Some(settings) = settings(Half::Bf16) else { return };
    let mut tiny = Tiny::new(settings, What::Published(64));
    tiny.step(prompts(ROWS));
    let upload = |tiny: &mut Tiny, step| tiny.backend.upload(Arc::new(decode(ROWS, step)));
    let mut tickets = Vec::new();
    for step in 1..=RING_SLOTS {
        assert_eq!(upload(&mut tiny, step).unwrap(), StepMode::Graph);
        tickets.push(tiny.backend.commit().unwrap());
    }
    let error = upload(&mut tiny, 1 + RING_SLOTS).unwrap_err().to_string();
    assert!(error.contains("4 steps are under way"), "{error}");
    for ticket in tickets {
        tiny.backend.collect(ticket).unwrap();
    }
    assert_eq!(upload(&mut tiny, 1 + RING_SLOTS).unwrap(), StepMode::Graph);
}

#[test]
fn a_warmup_leaves_nothing_that_later_steps_see() {
    for (half, what) in models() {
        let Some(settings) = settings(half) else { return };
        let [mut warmed, mut other] = [0, 1].map(|_| Tiny::new(settings.clone(), what));
        let warmup = warmed.backend.warmup().unwrap();
        // Nobody reads the logits of a warmup, and none are made where they need not be.
        let (mode, outcome) = warmed.run(warmup, |_, _| ());
        assert_eq!((mode, outcome.sampled.len()), (StepMode::Eager, 1));
        assert!(outcome.sampled[0].finite, "{half:?} {what:?}");
        for step in 0..3 {
            let [got, want] = [&mut warmed, &mut other]
                .map(|tiny| tiny.step(if step == 0 { prompts(ROWS) } else { decode(ROWS, step) }));
            assert_eq!((got.0, &got.1), (want.0, &want.1), "{half:?} {what:?}, step {step}");
            same_bits(&got.2, &want.2, &format!("{half:?} {what:?}, step {step}"));
        }
    }
}

//! Answers of a least length: the rows whose samples may not end yet are masked, by count alone.

use std::sync::Arc;

use binfer_proto::{Mask, Masks, SlotId};

use super::rules::{config, request, result};
use crate::sched::*;

fn least(tokens: u32) -> Option<LeastTokens> {
    Some(LeastTokens { tokens, allowed: Arc::new([0b1111_1110]) })
}

fn outputs(masks: Option<Masks>) -> Vec<u32> {
    masks.map_or_else(Vec::new, |masks| masks.rows.iter().map(|mask| mask.output).collect())
}

#[test]
fn as_many_samples_as_are_asked_for_are_masked_though_two_steps_are_in_flight() {
    let mut scheduler = Scheduler::new(config()).unwrap();
    scheduler.submit(request(1, 2, 9)).unwrap();
    scheduler.submit(Request { least: least(3), ..request(2, 2, 9) }).unwrap();
    let mut sent = Vec::new();
    for masked in [true, true, true, false] {
        if sent.len() == 2 {
            scheduler.absorb(&result(&sent.remove(0), &[&[5], &[5]])).unwrap();
        }
        let step = scheduler.plan(Tick(0)).unwrap();
        assert_eq!(step.plan.masked, masked);
        let masks = scheduler.take_masks();
        let (epoch, number) = (step.plan.epoch, step.plan.step);
        assert!(masks.iter().all(|masks| (masks.epoch, masks.step) == (epoch, number)));
        assert!(masks.iter().flat_map(|m| &m.rows).all(|mask: &Mask| mask.bits == [0b1111_1110]));
        // The second row: the first has no least length.
        assert_eq!(outputs(masks), if masked { vec![1] } else { vec![] });
        assert_eq!(scheduler.take_masks(), None, "they are taken once");
        sent.push(step);
    }
}

#[test]
fn a_chunk_in_the_middle_of_a_prompt_is_no_output_to_mask() {
    let mut scheduler = Scheduler::new(config()).unwrap();
    scheduler.submit(Request { least: least(1), ..request(1, 20, 4) }).unwrap();
    let first = scheduler.plan(Tick(0)).unwrap();
    assert!(!first.plan.masked && scheduler.take_masks().is_none());
    let second = scheduler.plan(Tick(0)).unwrap();
    assert!(second.plan.masked);
    assert_eq!(outputs(scheduler.take_masks()), [0]);
    // The plan's hash covers that it is masked, and the slot is that of the first chunk.
    assert_eq!(first.plan.open[0].slot, SlotId(0));
    scheduler.absorb(&result(&first, &[&[]])).unwrap();
    let ended = scheduler.absorb(&result(&second, &[&[5]])).unwrap();
    assert_eq!(ended[0].finish, None);
}

#[test]
fn the_token_behind_the_least_length_may_end_the_answer() {
    let mut scheduler = Scheduler::new(config()).unwrap();
    scheduler.submit(Request { least: least(2), ..request(1, 2, 9) }).unwrap();
    for (token, masked) in [(5, true), (6, true), (7, false)] {
        let step = scheduler.plan(Tick(0)).unwrap();
        assert_eq!((step.plan.masked, scheduler.take_masks().is_some()), (masked, masked));
        scheduler.absorb(&result(&step, &[&[token]])).unwrap();
    }
    let step = scheduler.plan(Tick(0)).unwrap();
    let end = scheduler.absorb(&result(&step, &[&[0]])).unwrap();
    assert_eq!((end[0].finish, end[0].end_token), (Some(Finish::Stop), Some(0)));
}

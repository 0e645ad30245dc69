//! Logits against transformers', and the bits of logits in any company.

use binfer_proto::Token;
use binfer_worker::backend::cpu::KvDtype;

use crate::harness::{Golden, Permit, goldens};
use crate::rig::{Rig, TOKENS_PER_STEP, on_ranks};

/// Of single precision with another order of summation, from 10 to 35 large logits.
const F32_BOUND: f32 = 1e-3;
/// Bounds on any logit where the cache is stored with 8 or 11 bits of mantissa: three times what
/// was measured (0.086 and 0.009).
const BF16_BOUND: f32 = 0.25;
const F16_BOUND: f32 = 0.03;

fn golden(name: &str) -> Golden {
    goldens().into_iter().find(|golden| golden.name == name).unwrap()
}

/// Longer than the largest chunk, and no multiple of any.
fn long_prompt() -> Vec<Token> {
    golden("long").prompt_ids[..530].to_vec()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// Like `assert_eq`, without printing 49,152 numbers.
fn assert_same_bits(one: &[f32], other: &[f32], what: &str) {
    let differ = bits(one).iter().zip(bits(other)).filter(|(one, other)| **one != *other).count();
    assert_eq!((differ, one.len()), (0, other.len()), "{what}");
}

fn largest_difference(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
}

#[test]
fn logits_equal_transformers() {
    let _permit = Permit::one();
    let mut rig = Rig::new(KvDtype::F32);
    for golden in goldens() {
        let (logits, token) = rig.feed(0, &golden.prompt_ids, TOKENS_PER_STEP);
        rig.close(0);
        assert_eq!(token, golden.ids[0], "{}", golden.name);
        assert_eq!(golden.top.len(), 20, "{}", golden.name);
        for (id, expected) in &golden.top {
            let difference = (logits[*id] - expected).abs();
            assert!(difference <= F32_BOUND, "{}: token {id} off by {difference}", golden.name);
        }
    }
}

#[test]
fn chunks_of_any_size_give_the_same_bits() {
    let _permit = Permit::one();
    let prompt = long_prompt();
    let mut rig = Rig::new(KvDtype::F32);
    let (whole, _) = rig.feed(0, &prompt, 512);
    rig.close(0);
    for chunk in [1, 17, 100] {
        rig.shuffle();
        let (logits, _) = rig.feed(0, &prompt, chunk);
        rig.close(0);
        assert_same_bits(&whole, &logits, &format!("chunks of {chunk}"));
    }
}

#[test]
fn a_batch_of_seven_gives_each_the_bits_that_it_has_alone() {
    let _permit = Permit::one();
    let names = ["once", "prose", "code", "french", "emoji", "chat-system", "chat-turns"];
    let all = names.map(golden);
    let mut rig = Rig::new(KvDtype::F32);
    // Alone: prompt, then three tokens of the golden answer, each a step.
    let alone: Vec<Vec<Vec<f32>>> = (all.iter())
        .map(|golden| {
            let mut steps = vec![rig.feed(0, &golden.prompt_ids, TOKENS_PER_STEP).0];
            steps.extend(golden.ids[..3].chunks(1).map(|token| rig.feed(0, token, 1).0));
            rig.close(0);
            steps
        })
        .collect();
    rig.shuffle();
    let prompts = all.iter().map(|golden| Some(golden.prompt_ids.as_slice()));
    let mut together = vec![rig.step(&(0..).zip(prompts).collect::<Vec<_>>())];
    for _ in 0..3 {
        // In reverse, so that nobody keeps its place; the tokens are the device's own.
        let mut outcome = rig.step(&(0..7).rev().map(|slot| (slot, None)).collect::<Vec<_>>());
        outcome.reverse();
        together.push(outcome);
    }
    for (step, outcomes) in together.iter().enumerate() {
        for (row, (logits, token)) in outcomes.iter().enumerate() {
            assert_same_bits(logits, &alone[row][step], &format!("{}, step {step}", names[row]));
            assert_eq!(*token, all[row].ids[step], "{}, step {step}", names[row]);
        }
    }
}

/// On three ranks sums go over ranks too, and heads lie elsewhere.
#[test]
fn chunks_and_company_give_the_same_bits_on_three_ranks() {
    let _permit = Permit::one();
    let (golden, other) = (golden("json"), golden("emoji"));
    let (whole, split, beside, token) = on_ranks(3, |rig| {
        let (whole, token) = rig.feed(0, &golden.prompt_ids, TOKENS_PER_STEP);
        rig.close(0);
        rig.shuffle();
        let split = rig.feed(0, &golden.prompt_ids, 17).0;
        rig.close(0);
        let prompts = [(3, Some(&other.prompt_ids[..])), (1, Some(&golden.prompt_ids[..]))];
        let beside = rig.step(&prompts).remove(1).0;
        (whole, split, beside, token)
    });
    assert_eq!(token, golden.ids[0]);
    assert_same_bits(&whole, &split, "chunks of 17");
    assert_same_bits(&whole, &beside, "beside another");
    for (id, expected) in &golden.top {
        let difference = (whole[*id] - expected).abs();
        assert!(difference <= F32_BOUND, "token {id} off by {difference}");
    }
}

/// Preempted after 70 tokens, its blocks used by another, computed again in one go.
#[test]
fn recomputation_gives_the_bits_that_were_lost() {
    let _permit = Permit::one();
    let (golden, other) = (golden("json"), golden("code"));
    let mut rig = Rig::new(KvDtype::F32);
    let (_, mut token) = rig.feed(0, &golden.prompt_ids, TOKENS_PER_STEP);
    let mut written = golden.prompt_ids.clone();
    let mut before = Vec::new();
    for _ in 0..70 {
        written.push(token);
        let (logits, next) = rig.step(&[(0, None)]).remove(0);
        before = logits;
        token = next;
    }
    rig.close(0);
    rig.feed(1, &other.prompt_ids, TOKENS_PER_STEP);
    let (again, next) = rig.feed(2, &written, TOKENS_PER_STEP);
    assert_same_bits(&before, &again, "recomputed");
    assert_eq!(token, next);
    // And on from there, beside another.
    let after = rig.step(&[(1, None), (2, None)]).remove(1).0;
    rig.close(1);
    rig.close(2);
    written.push(token);
    assert_same_bits(&rig.feed(3, &written, 17).0, &after, "the token after");
}

#[test]
fn a_cache_of_half_the_size_keeps_logits_within_its_bound() {
    let _permit = Permit::one();
    let names = ["once", "code", "chinese", "chat-turns"];
    let prompts: Vec<Vec<Token>> =
        names.iter().map(|name| golden(name).prompt_ids).chain([long_prompt()]).collect();
    let logits = |kv_dtype| {
        let mut rig = Rig::new(kv_dtype);
        let each = |(slot, prompt): (u32, &Vec<Token>)| rig.feed(slot, prompt, TOKENS_PER_STEP).0;
        (0..).zip(&prompts).map(each).collect::<Vec<_>>()
    };
    let exact = logits(KvDtype::F32);
    let worst = |kv_dtype| {
        let stored = logits(kv_dtype);
        let differences = exact.iter().zip(&stored).map(|(one, two)| largest_difference(one, two));
        differences.fold(0.0, f32::max)
    };
    let (bf16, f16) = (worst(KvDtype::BF16), worst(KvDtype::F16));
    eprintln!("largest difference of a logit: bf16 {bf16}, f16 {f16}");
    assert!(0.0 < bf16 && bf16 <= BF16_BOUND, "bf16: {bf16}");
    assert!(0.0 < f16 && f16 <= F16_BOUND, "f16: {f16}");
}

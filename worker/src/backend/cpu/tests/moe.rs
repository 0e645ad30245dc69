//! Mixtures of experts against their oracle, and bits of a token's result in all kinds of company.

use binfer_shard::DType;
use binfer_shard::spec::{ActivationFn, ExpertGroups, GroupScore, RouterScores, Routing};

use super::mixture::{Mixture, Shape, with_residual};
use super::{KvDtype, Level, Random, Rig, assert_near};
use crate::backend::Backend;
use crate::backend::args::{ExpertsArgs, MoeArgs, RouterArgs};

/// Roundings of two gemms and an activation between them, relative to what went into them.
const TOLERANCE: f64 = 1e-5;
/// Tokens whose experts hang on less are not compared.
const MARGIN_MIN: f64 = 1e-4;

#[test]
fn moe_equals_its_oracle() {
    let (mut compared, mut undecided) = (0, 0);
    for level in Level::available() {
        for round in 0..16 {
            let mut rig = Rig::new(level, 1 + round % 2, KvDtype::F32);
            rig.random = Random(round as u64 + 1);
            let shape = Shape::random(&mut rig.random);
            let tokens = [1, 2, 7, 60][round % 4];
            let mixture = Mixture::load(&mut rig, shape);
            mixture.allocate(&mut rig, tokens);
            let x = rig.random.floats(tokens * shape.hidden);
            for in_place in [false, true] {
                let got = mixture.run(&mut rig, &x, in_place);
                for (x, got) in x.chunks(shape.hidden).zip(got.chunks(shape.hidden)) {
                    let (sums, margin) = mixture.oracle(x);
                    if margin < MARGIN_MIN {
                        undecided += 1;
                        continue;
                    }
                    compared += 1;
                    let what = format!("{level:?} {round} {shape:?}");
                    assert_near(got, &with_residual(sums, x), TOLERANCE, &what);
                }
            }
        }
    }
    assert!(compared > 20 * undecided, "{compared} compared, {undecided} not");
}

/// As published: many experts, a shared one, sigmoid with correction and groups.
const LARGE: Shape = Shape {
    hidden: 64,
    inner: 32,
    experts: 16,
    held: (0, 16),
    routing: Routing {
        top_k: 4,
        scores: RouterScores::Sigmoid,
        normalize: true,
        scale: 2.5,
        expert_groups: Some(ExpertGroups { count: 4, kept: 2, score: GroupScore::TopTwoSum }),
    },
    act: ActivationFn::Silu,
    shared: Some((32, true)),
    biases: true,
};

/// More tokens than a pass has, among them one that is not a number.
#[test]
fn company_does_not_show_in_the_bits_of_a_token() {
    const TOKENS: usize = 700;
    for level in Level::available() {
        for scores in [RouterScores::Softmax, RouterScores::Sigmoid] {
            let shape = Shape { routing: Routing { scores, ..LARGE.routing }, ..LARGE };
            let mut rig = Rig::new(level, 2, KvDtype::F32);
            let mixture = Mixture::load(&mut rig, shape);
            mixture.allocate(&mut rig, TOKENS);
            let hidden = shape.hidden;
            let mut x = rig.random.floats(TOKENS * hidden);
            x[3 * hidden + 5] = f32::NAN;
            let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let together = bits(mixture.run(&mut rig, &x, true));
            for (token, count) in [(0, 1), (2, 3), (3, 1), (500, 40), (699, 1), (100, 513)] {
                let part = &x[token * hidden..][..count * hidden];
                let alone = bits(mixture.run(&mut rig, part, false));
                let same = &together[token * hidden..][..count * hidden];
                let finite = |bits: &[u32]| -> Vec<Option<u32>> {
                    let one = |bits: &u32| f32::from_bits(*bits).is_finite().then_some(*bits);
                    bits.iter().map(one).collect()
                };
                assert_eq!(finite(&alone), finite(same), "{level:?} {scores:?} {token} {count}");
            }
            let dead = |token: usize| together[token * hidden..][..hidden].iter();
            assert!(dead(3).all(|bits| f32::from_bits(*bits).is_nan()));
            assert!(dead(2).chain(dead(4)).all(|bits| f32::from_bits(*bits).is_finite()));
        }
    }
}

#[test]
fn equal_scores_send_all_tokens_to_the_first_experts() {
    let shape = Shape { biases: false, shared: None, ..LARGE };
    let routing = Routing { scores: RouterScores::Softmax, expert_groups: None, ..LARGE.routing };
    let shape = Shape { routing, ..shape };
    let mut rig = Rig::new(Level::best(), 2, KvDtype::F32);
    let mut mixture = Mixture::load(&mut rig, shape);
    let zeros = vec![0; 4 * shape.experts * shape.hidden];
    let parts = [(DType::F32, shape.experts)];
    mixture.router = rig.weight_of(&parts, shape.hidden, 0..shape.hidden, &[zeros]);
    mixture.allocate(&mut rig, 70);
    let x = rig.random.floats(70 * shape.hidden);
    mixture.run(&mut rig, &x, true);
    let choices = rig.backend.work.moe.choices()[..70 * 4].chunks(4);
    for choices in choices {
        let experts: Vec<_> = choices.iter().map(|choice| choice.expert).collect();
        assert_eq!(experts, [0, 1, 2, 3]);
    }
}

#[test]
fn what_no_memory_was_taken_for_is_refused() {
    let mut rig = Rig::new(Level::best(), 1, KvDtype::F32);
    let mut mixture = Mixture::load(&mut rig, Shape { shared: None, ..LARGE });
    mixture.allocate(&mut rig, 3);
    rig.upload_tokens(&[0; 2], &[]);
    let (good, _) = mixture.args(2);
    let mut refused = |args: MoeArgs| rig.backend.moe(&args).unwrap_err().to_string();
    let router = RouterArgs { weight: good.norm, ..good.router };
    assert!(refused(MoeArgs { router, ..good }).contains("not a matrix"));
    let experts = ExpertsArgs { count: 15, ..good.experts };
    assert!(refused(MoeArgs { experts, ..good }).contains("no stack of 15 experts"));
    let experts = ExpertsArgs { first: 1, ..good.experts };
    assert!(refused(MoeArgs { experts, ..good }).contains("16 experts from 1 on, of 16"));
    let experts = ExpertsArgs { out_rows: good.experts.inner_rows, ..good.experts };
    assert!(refused(MoeArgs { experts, ..good }).contains("out rows"));
    // In an arena that would have room.
    mixture.shape.routing.top_k = 5;
    assert!(refused(mixture.args(2).0).contains("5 of 16 experts of 64: no memory was taken"));
    rig.write(good.x, &[1.0; 128]);
    rig.backend.moe(&good).unwrap();
}

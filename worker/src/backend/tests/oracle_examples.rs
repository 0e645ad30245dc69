//! The oracles of experts and of latent attention, on numbers that can be checked by hand.

use binfer_shard::spec::{ActivationFn, ExpertGroups, GroupScore, RouterScores, Routing};

use super::oracle::{
    ExpertRows, LatentHead, Sum, add_weighted, expert, glu, latent_attention, route,
};

const PLAIN: Routing = Routing {
    top_k: 2,
    scores: RouterScores::Softmax,
    normalize: false,
    scale: 1.0,
    expert_groups: None,
};

fn near(one: f64, other: f64) -> bool {
    (one - other).abs() < 1e-12
}

fn sum(value: f64) -> Sum {
    Sum { value, size: value.abs() }
}

#[test]
fn experts_are_chosen_by_score_and_weighed_by_softmax() {
    // Scores of 1/8, 4/8, 1/8, 2/8.
    let logits = [0.0, 4_f64.ln(), 0.0, 2_f64.ln()];
    let routed = route(&logits, None, &PLAIN);
    assert!(
        routed.experts.iter().zip([(1, 0.5), (3, 0.25)]).all(|(a, b)| a.0 == b.0 && near(a.1, b.1))
    );
    assert!(near(routed.margin, 0.125), "{routed:?}");
    let routed = route(&logits, None, &Routing { normalize: true, scale: 3.0, ..PLAIN });
    assert!(near(routed.experts[0].1, 2.0) && near(routed.experts[1].1, 1.0), "{routed:?}");
    // Of equal scores the lower number is chosen.
    let routed = route(&logits, None, &Routing { top_k: 3, ..PLAIN });
    assert_eq!(routed.experts.iter().map(|expert| expert.0).collect::<Vec<_>>(), [1, 3, 0]);
    assert!(near(routed.margin, 0.0));
}

#[test]
fn a_correction_changes_the_choice_and_not_the_weights() {
    let routing = Routing { scores: RouterScores::Sigmoid, ..PLAIN };
    let logits = [0.0, 3_f64.ln(), 0.0];
    let routed = route(&logits, Some(&[0.0, -1.0, 0.1]), &routing);
    assert_eq!(routed.experts.iter().map(|expert| expert.0).collect::<Vec<_>>(), [2, 0]);
    assert!(routed.experts.iter().all(|expert| near(expert.1, 0.5)), "{routed:?}");
    assert!(near(routed.margin, 0.75), "{routed:?}");
}

#[test]
fn experts_of_losing_groups_are_not_chosen() {
    let groups = |score| Some(ExpertGroups { count: 2, kept: 1, score });
    let routing = Routing { scores: RouterScores::Sigmoid, ..PLAIN };
    let logits = [5.0, -5.0, 1.0, 1.5];
    let by = |score| {
        let routed = route(&logits, None, &Routing { expert_groups: groups(score), ..routing });
        routed.experts.iter().map(|expert| expert.0).collect::<Vec<_>>()
    };
    assert_eq!(by(GroupScore::Max), [0, 1]);
    assert_eq!(by(GroupScore::TopTwoSum), [3, 2]);
}

#[test]
fn the_clamped_unit_adds_one_to_up_and_clamps_the_gate_above_only() {
    let act = ActivationFn::ClampedSwiglu { limit: 7.0 };
    let gate_up = [9.0, -9.0, 0.5, 8.0, -8.0, 0.25].map(sum);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-f64::from(ActivationFn::SWIGLU_ALPHA) * x).exp());
    let want = [7.0 * sigmoid(7.0) * 8.0, -9.0 * sigmoid(-9.0) * -6.0, 0.5 * sigmoid(0.5) * 1.25];
    let got = glu(act, &gate_up);
    assert!(got.iter().zip(want).all(|(got, want)| near(got.value, want)), "{got:?}");
}

#[test]
fn an_expert_is_a_gated_linear_unit_with_biases() {
    let (gate_up, down) = ([vec![1.0, 0.0], vec![0.0, 2.0]], [vec![3.0], vec![-1.0]]);
    let rows = ExpertRows {
        gate_up: &gate_up,
        gate_up_bias: Some(&[0.0, 1.0]),
        down: &down,
        down_bias: Some(&[0.5, 0.0]),
    };
    let inner = 1.0 / (1.0 + (-1_f64).exp()) * 5.0;
    let mut sums = vec![sum(1.0), sum(0.0)];
    add_weighted(&mut sums, 2.0, &expert(&[1.0, 2.0], rows, ActivationFn::Silu));
    let want = [1.0 + 2.0 * (3.0 * inner + 0.5), -2.0 * inner];
    assert!(sums.iter().zip(want).all(|(sum, want)| near(sum.value, want)), "{sums:?}");
}

#[test]
fn latent_attention_expands_keys_and_values_of_each_position() {
    let (k_b, v_b) = ([vec![1.0, 0.0], vec![0.0, 1.0]], [vec![1.0, 1.0]]);
    let head = LatentHead { k_b: &k_b, v_b: &v_b, scale: 0.5 };
    // Two of what is not rotated, one of what is; scores of ln 1 and ln 3.
    let query = [1.0, 0.0, 2.0];
    let cached = [vec![0.0, 1.0, 0.0], vec![2.0 * 3_f64.ln() - 2.0, 0.0, 1.0]];
    let want = 0.25 + 0.75 * (2.0 * 3_f64.ln() - 2.0);
    let got = latent_attention(&query, &cached, head);
    assert!(near(got[0].value, want) && got.len() == 1, "{got:?} {want}");
}

//! All kinds of mixtures with all numbers of tokens, and routings that leave experts without any.

use super::super::{for_halves, is_sanitized, numbers_of_tokens, tokens_max};
use super::kinds::{KINDS, Kind, PLAIN};
use super::{Half, Mixture, same_bits, vector};

#[test]
fn experts_equal_their_oracle() {
    for_halves(|rig| {
        for (place, kind) in KINDS.into_iter().enumerate() {
            // Under a sanitizer every kind in one of the types.
            if is_sanitized() && place.is_multiple_of(2) != (rig.half() == Half::Bf16) {
                continue;
            }
            rig.begin(place as u64 + 1);
            let mixture = Mixture::new(rig, kind);
            for (index, tokens) in numbers_of_tokens().enumerate() {
                // Every number of tokens meets half of the kinds, or the first one all.
                if index > 0 && !(index + place).is_multiple_of(2) {
                    continue;
                }
                for is_decode in [true, false] {
                    mixture.check(rig, tokens, is_decode, !(index + place).is_multiple_of(3));
                }
            }
        }
    });
}

#[test]
fn the_longest_chunks_are_routed_and_sorted_by_many_blocks() {
    for_halves(|rig| {
        for (place, name) in ["mixtral", "gpt-oss", "one of two ranks"].into_iter().enumerate() {
            rig.begin(place as u64 + 1);
            let kind = *KINDS.iter().find(|kind| kind.name == name).unwrap();
            let tokens = if is_sanitized() { 600 } else { tokens_max() };
            Mixture::new(rig, kind).check(rig, tokens, false, true);
        }
    });
}

/// A mixture whose router sends all tokens to `experts`, by a bias that no logit reaches.
fn one_sided(rig: &mut super::Rig, experts: &[usize]) -> Mixture {
    let kind = Kind { has_biases: true, ..PLAIN };
    let mixture = Mixture::new(rig, kind);
    let bias = |expert: usize| {
        experts.iter().position(|of| *of == expert).map_or(0.0, |place| 1000.0 - place as f32)
    };
    let biases: Vec<f32> = (0..kind.experts).map(bias).collect();
    let router_bias = Some(vector(rig, &biases));
    Mixture { router_bias, ..mixture }
}

#[test]
fn all_tokens_may_go_to_the_same_experts_and_none_to_the_others() {
    for_halves(|rig| {
        for experts in [[0, 7], [7, 0], [3, 4]] {
            for tokens in [1, 63, 64, 65, 257] {
                rig.begin(tokens as u64);
                one_sided(rig, &experts).check(rig, tokens, tokens < 65, true);
            }
        }
    });
}

#[test]
fn ranks_without_any_of_the_chosen_experts_keep_the_residual() {
    for_halves(|rig| {
        rig.begin(1);
        let mut mixture = one_sided(rig, &[0, 1]);
        // Experts 5 and 6 of this rank, in the weights of 0 and 1.
        (mixture.first, mixture.count) = (5, 2);
        mixture.kind.held = (5, 2);
        let held = (2 * 2 * mixture.inner, 2 * mixture.kind.hidden);
        mixture.gate_up = rig.weight(PLAIN.dtype, held.0, PLAIN.hidden);
        mixture.down = rig.weight(PLAIN.dtype, held.1, PLAIN.inner);
        mixture.biases = [None, None];
        let rooms = mixture.rooms(rig, 33, true);
        let x = rig.random.floats(33 * PLAIN.hidden);
        let got = mixture.run(rig, &rooms, &x, true);
        same_bits(&x, &got, "nothing is added");
    });
}

#[test]
fn a_token_that_is_no_number_harms_no_other() {
    for_halves(|rig| {
        rig.begin(1);
        for kind in [KINDS[0], KINDS[4], KINDS[7]] {
            let mixture = Mixture::new(rig, kind);
            let rooms = mixture.rooms(rig, 40, true);
            let x = rig.random.floats(40 * kind.hidden);
            let clean = mixture.run(rig, &rooms, &x, true);
            let mut poisoned = x.clone();
            poisoned[17 * kind.hidden + 3] = f32::NAN;
            let got = mixture.run(rig, &rooms, &poisoned, true);
            let rows = got.chunks(kind.hidden).zip(clean.chunks(kind.hidden)).enumerate();
            for (token, (got, clean)) in rows {
                if token == 17 {
                    assert!(got.iter().any(|x| !x.is_finite()), "{}: it is told", kind.name);
                } else {
                    let near =
                        got.iter().zip(clean).all(|(a, b)| (a - b).abs() <= 0.05 * b.abs() + 0.5);
                    assert!(near, "{}: token {token}: {got:?} {clean:?}", kind.name);
                }
            }
        }
    });
}

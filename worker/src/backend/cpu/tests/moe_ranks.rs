//! Experts of three ranks: eight experts, of which no rank has as many as another.

use std::sync::mpsc::channel;

use binfer_shard::spec::{ActivationFn, RouterScores, Routing};

use super::mixture::{Mixture, ROUTING, Shape, with_residual};
use super::{KvDtype, Level, Random, Rig, assert_near, oracle};
use crate::backend::RankDevice;

const HELD: [(usize, usize); 3] = [(0, 3), (3, 3), (6, 2)];
const TOKENS: usize = 40;

/// What a rank comes to, and what it ought to have added to each token.
struct Outcome {
    out: Vec<f32>,
    added: Vec<(Vec<oracle::Sum>, f64)>,
}

fn shape(rank: usize, scores: RouterScores) -> Shape {
    Shape {
        hidden: 64,
        inner: 32,
        experts: 8,
        held: HELD[rank],
        routing: Routing { top_k: 3, scores, ..ROUTING },
        act: ActivationFn::Silu,
        shared: Some((8 * (1 + rank), true)),
        biases: true,
    }
}

fn run(rank: usize, rig: &mut Rig, scores: RouterScores) -> Outcome {
    // Norm, router and its vectors come first: they are the same on all ranks.
    let mixture = Mixture::load(rig, shape(rank, scores));
    mixture.allocate(rig, TOKENS);
    let x = tokens();
    let out = mixture.run(rig, &x, true);
    let added = x.chunks(64).map(|x| mixture.oracle(x)).collect();
    Outcome { out, added }
}

fn tokens() -> Vec<f32> {
    Random(99).floats(TOKENS * 64)
}

fn check(scores: RouterScores) {
    let ranks: Vec<_> = (1..3)
        .map(|rank| {
            let (send, receive) = channel::<Vec<u8>>();
            let thread = std::thread::spawn(move || {
                let mut rig = Rig::new(Level::best(), 1, KvDtype::F32);
                let _abort = rig.backend.join(&receive.recv().unwrap(), rank, 3).unwrap();
                run(rank, &mut rig, scores)
            });
            (send, thread)
        })
        .collect();
    let mut rig = Rig::new(Level::best(), 1, KvDtype::F32);
    let id = rig.backend.comm_id(3).unwrap();
    ranks.iter().for_each(|(send, _)| send.send(id.clone()).unwrap());
    let _abort = rig.backend.join(&id, 0, 3).unwrap();
    let mut outcomes = vec![run(0, &mut rig, scores)];
    outcomes.extend(ranks.into_iter().map(|(_, thread)| thread.join().unwrap()));
    let mut compared = 0;
    for (token, x) in tokens().chunks(64).enumerate() {
        let mut sums = vec![oracle::Sum { value: 0.0, size: 0.0 }; 64];
        for outcome in &outcomes {
            oracle::add_weighted(&mut sums, 1.0, &outcome.added[token].0);
            assert_eq!(outcome.out, outcomes[0].out, "ranks differ");
        }
        if outcomes[0].added[token].1 > 1e-4 {
            compared += 1;
            let got = &outcomes[0].out[token * 64..][..64];
            assert_near(got, &with_residual(sums, x), 1e-5, &format!("token {token}"));
        }
    }
    assert!(compared > TOKENS / 2, "{compared}");
}

#[test]
fn experts_that_ranks_share_unevenly_add_up() {
    check(RouterScores::Softmax);
    check(RouterScores::Sigmoid);
}

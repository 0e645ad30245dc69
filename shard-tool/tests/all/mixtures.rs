//! Mixtures of experts and latent attention, as tiny checkpoints and published settings have them.

use std::path::{Path, PathBuf};

use binfer_shard::spec::{ActivationFn, Ffn, ModelSpec, Moe, RouterScores, Routing, TensorCut};
use binfer_shard::{Checkpoint, layouts};

use crate::shards::check;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/mixtures").join(name)
}

fn spec(name: &str) -> ModelSpec {
    Checkpoint::open(fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}")).spec().clone()
}

/// The layers that are mixtures, and the last one.
fn mixtures(spec: &ModelSpec) -> (Vec<usize>, Moe) {
    let moes =
        spec.layers.iter().enumerate().filter_map(|(at, layer)| Some((at, layer.ffn.moe()?)));
    let (layers, moes): (Vec<usize>, Vec<&Moe>) = moes.unzip();
    (layers, **moes.last().unwrap())
}

fn softmax(top_k: u32, normalize: bool) -> Routing {
    let (scores, scale) = (RouterScores::Softmax, 1.0);
    Routing { top_k, scores, normalize, scale, expert_groups: None }
}

#[test]
fn qwen_and_mixtral_say_which_layers_are_mixtures_and_how_they_route() {
    let of_qwen3 = spec("qwen3-moe");
    let (layers, moe) = mixtures(&of_qwen3);
    assert_eq!(layers, [1, 2]);
    let act = ActivationFn::Silu;
    let (routing, shared_inner) = (softmax(2, true), None);
    assert_eq!(moe, Moe { experts: 8, inner: 32, act, routing, shared_inner });
    assert_eq!(of_qwen3.layers[0].ffn, Ffn::Glu { inner: 96, act });
    assert!(of_qwen3.tensor("layers.1.attn.q_norm").is_some());

    let of_qwen2 = spec("qwen2-moe");
    let (layers, moe) = mixtures(&of_qwen2);
    assert_eq!(layers, [1]);
    let (routing, shared_inner) = (softmax(4, false), Some(48));
    assert_eq!(moe, Moe { experts: 12, inner: 32, act, routing, shared_inner });
    let names: Vec<&str> = of_qwen2
        .tensors
        .iter()
        .filter_map(|tensor| tensor.name.strip_prefix("layers.1.ffn."))
        .collect();
    let wanted =
        ["norm", "router", "experts.gate_up", "experts.down", "shared.gate_up", "shared.down"];
    assert_eq!(names, [&wanted[..], &["shared.gate"]].concat());

    let of_mixtral = spec("mixtral");
    let (layers, moe) = mixtures(&of_mixtral);
    assert_eq!(layers, [0, 1]);
    let (routing, shared_inner) = (softmax(2, true), None);
    assert_eq!(moe, Moe { experts: 8, inner: 32, act, routing, shared_inner });
    let gate_up = of_mixtral.tensor("layers.0.ffn.experts.gate_up").unwrap();
    assert_eq!(gate_up.cut, TensorCut::Experts(2));
    let sources: Vec<&str> = gate_up.parts.iter().take(3).map(|part| &*part.source).collect();
    let expert = |of: &str| format!("model.layers.0.block_sparse_moe.experts.{of}.weight");
    assert_eq!(sources, [expert("0.w1"), expert("0.w3"), expert("1.w1")]);
}

#[test]
fn ranks_hold_whole_experts_also_where_they_do_not_divide() {
    for name in ["qwen3-moe", "qwen2-moe", "mixtral"] {
        let spec = spec(name);
        let (layers, moe) = mixtures(&spec);
        for world in 1..=4 {
            let mut next = 0;
            for layout in layouts(&spec, world).unwrap() {
                let held = &layout.layer(layers[0]).unwrap().ffn;
                assert_eq!(held.experts.start, next, "{name}");
                assert!(!held.experts.is_empty(), "{name}");
                assert_eq!(held.columns.is_empty(), moe.shared_inner.is_none(), "{name}");
                next = held.experts.end;
            }
            assert_eq!(next, moe.experts, "{name}");
        }
        let error = layouts(&spec, 1 + moe.experts).unwrap_err().to_string();
        assert!(error.contains("ranks, but the model has only"), "{error}");
    }
}

#[test]
fn shards_of_mixtures_hold_what_ranks_load_from_the_checkpoint() {
    for name in ["qwen3-moe", "qwen2-moe", "mixtral"] {
        check(&fixture(name), name);
    }
}

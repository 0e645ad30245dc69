//! Mixtures of experts and latent attention, as tiny checkpoints and published settings have them.

use std::path::{Path, PathBuf};

use binfer_shard::spec::{
    ActivationFn, ExpertGroups, Ffn, GroupScore, KvKind, KvShape, Mixer, Mla, ModelSpec, Moe,
    RouterScores, Routing, RowOrder, TensorCut,
};
use binfer_shard::{Checkpoint, DType, layouts};

use crate::shards::check;

const FIXTURES: [&str; 10] = [
    "qwen3-moe",
    "qwen3-moe-fused",
    "qwen2-moe",
    "mixtral",
    "gpt-oss-bf16",
    "gpt-oss-mxfp4",
    "deepseek-v2",
    "deepseek-v2-lite",
    "deepseek-v3",
    "deepseek-v3-fp8",
];

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/mixtures").join(name)
}

const GGUF_FIXTURES: [&str; 6] = [
    "mixtral-gguf",
    "qwen2-moe-gguf",
    "qwen3-moe-gguf",
    "gpt-oss-gguf",
    "deepseek-v2-lite-gguf",
    "deepseek-v3-gguf",
];

fn gguf(name: &str) -> PathBuf {
    fixture(name).join("model.gguf")
}

fn spec(name: &str) -> ModelSpec {
    let path = if name.ends_with("-gguf") { gguf(name) } else { fixture(name) };
    Checkpoint::open(path).unwrap_or_else(|error| panic!("{name}: {error}")).spec().clone()
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
    for name in FIXTURES {
        check(&fixture(name), name);
    }
    for name in GGUF_FIXTURES {
        check(&gguf(name), name);
    }
}

#[test]
fn gguf_describes_mixtures_as_hugging_face_folders_do() {
    for (name, folder) in [
        ("mixtral-gguf", "mixtral"),
        ("gpt-oss-gguf", "gpt-oss-mxfp4"),
        ("deepseek-v2-lite-gguf", "deepseek-v2-lite"),
        ("deepseek-v3-gguf", "deepseek-v3"),
    ] {
        let (one, other) = (spec(name), spec(folder));
        // GGUF has floats of single precision.
        let near = |one: f32, other: f32| (one - other).abs() <= 1e-6 * other.abs();
        assert_eq!(one.kv_groups, other.kv_groups, "{name}");
        assert_eq!(one.layers.len(), other.layers.len(), "{name}");
        for (one, other) in one.layers.iter().zip(&other.layers) {
            assert_eq!(one.ffn, other.ffn, "{name}");
            match (one.mixer, other.mixer) {
                (Mixer::Mla(one), Mixer::Mla(other)) => {
                    assert_eq!(
                        (one.heads, one.dims, one.q_rank),
                        (other.heads, other.dims, other.q_rank)
                    );
                    assert!(near(one.scale, other.scale), "{one:?} {other:?}");
                    assert_eq!(one.rope, other.rope, "{name}");
                }
                (one, other) => assert_eq!(one, other, "{name}"),
            }
        }
        let shapes = |spec: &ModelSpec| {
            let of = |tensor: &binfer_shard::spec::TensorSpec| {
                let parts = tensor.parts.iter().map(|part| (part.rows, part.cols));
                (tensor.name.clone(), tensor.cut, parts.collect::<Vec<_>>())
            };
            spec.tensors.iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(shapes(&one), shapes(&other), "{name}");
    }
    let (_, moe) = mixtures(&spec("qwen2-moe-gguf"));
    assert_eq!((moe.routing, moe.shared_inner), (softmax(3, false), Some(48)));
    let (_, moe) = mixtures(&spec("qwen3-moe-gguf"));
    assert_eq!((moe.routing, moe.shared_inner), (softmax(2, true), None));
}

#[test]
fn gpt_oss_has_sinks_windows_and_biases_and_its_experts_by_themselves() {
    for (name, dtype) in [("gpt-oss-bf16", DType::BF16), ("gpt-oss-mxfp4", DType::MXFP4)] {
        let spec = spec(name);
        let (layers, moe) = mixtures(&spec);
        assert_eq!(layers, [0, 1]);
        let (routing, shared_inner) = (softmax(2, true), None);
        let act = ActivationFn::ClampedSwiglu { limit: 7.0 };
        assert_eq!(moe, Moe { experts: 5, inner: 64, act, routing, shared_inner });
        let kinds: Vec<KvKind> = spec.kv_groups.iter().map(|group| group.kind).collect();
        assert_eq!(kinds, [KvKind::Window(128), KvKind::Full], "{name}");
        let gate_up = spec.tensor("layers.1.ffn.experts.gate_up").unwrap();
        assert!(gate_up.parts.iter().all(|part| part.dtype == dtype), "{name}");
        assert_eq!((gate_up.parts.len(), gate_up.parts[9].rows), (10, 64), "{name}");
        let bias = spec.tensor("layers.1.ffn.experts.gate_up.bias").unwrap();
        assert_eq!((bias.cut, bias.parts[9].cols), (TensorCut::Experts(2), 1));
        let sinks = spec.tensor("layers.1.attn.sinks").unwrap();
        assert_eq!((sinks.cut, sinks.parts[0].rows), (TensorCut::HeadRows(1), 6));
        for tensor in ["ffn.router.bias", "ffn.experts.down.bias", "attn.out.bias"] {
            assert!(spec.tensor(&format!("layers.0.{tensor}")).is_some(), "{tensor}");
        }
    }
}

fn latent(spec: &ModelSpec) -> Mla {
    match spec.layers[0].mixer {
        Mixer::Mla(mla) => mla,
        Mixer::Gqa(_) => panic!("grouped-query attention"),
    }
}

#[test]
fn deepseek_has_latent_attention_groups_of_experts_and_a_shared_one() {
    let v2 = spec("deepseek-v2");
    let mla = latent(&v2);
    assert_eq!((mla.heads, mla.q_rank, mla.query_dim(), mla.cached_dim()), (6, Some(24), 24, 40));
    // Halved by mscale_all_dim of 0.5 at a factor of 8.
    let size = 0.1 * 0.5 * 8.0_f64.ln() + 1.0;
    assert!((f64::from(mla.scale) - size * size / 24.0_f64.sqrt()).abs() < 1e-7);
    assert_eq!(v2.kv_groups[0].shape, KvShape::Latent { width: 40 });
    let (layers, moe) = mixtures(&v2);
    assert_eq!((layers, moe.shared_inner), (vec![1, 2], Some(48)));
    let groups = Some(ExpertGroups { count: 4, kept: 2, score: GroupScore::Max });
    let scores = RouterScores::Softmax;
    let wanted = Routing { top_k: 3, scores, normalize: false, scale: 2.5, expert_groups: groups };
    assert_eq!(moe.routing, wanted);
    let q_b = v2.tensor("layers.0.attn.q_b").unwrap();
    assert_eq!(q_b.cut, TensorCut::HeadRows(24));
    assert_eq!(q_b.parts[0].row_order, RowOrder::InterleavedTail { head_dim: 24, tail: 8 });
    let k_b = &v2.tensor("layers.0.attn.k_b").unwrap().parts[0];
    assert_eq!((k_b.rows, k_b.cols, k_b.dtype), (6 * 32, 16, DType::BF16));

    let v3 = Checkpoint::open(fixture("deepseek-v3")).unwrap();
    let (_, moe) = mixtures(v3.spec());
    let groups = Some(ExpertGroups { count: 3, kept: 2, score: GroupScore::TopTwoSum });
    let scores = RouterScores::Sigmoid;
    let wanted = Routing { top_k: 4, scores, normalize: true, scale: 2.5, expert_groups: groups };
    assert_eq!(moe.routing, wanted);
    assert!(v3.spec().tensor("layers.1.ffn.router.correction").is_some());
    let notes = v3.notes().join("\n");
    assert!(notes.contains("layers from model.layers.3 on predict further tokens"), "{notes}");

    let lite = spec("deepseek-v2-lite");
    assert_eq!(latent(&lite).q_rank, None);
    assert!(lite.tensor("layers.0.attn.q").is_some());
}

#[test]
fn fp8_is_joined_with_its_scales_and_what_is_transposed_is_unpacked() {
    let spec = spec("deepseek-v3-fp8");
    let dtype = |name: &str| spec.tensor(&format!("layers.1.{name}")).unwrap().parts[0].dtype;
    for name in ["attn.q_a", "attn.out", "ffn.experts.gate_up", "ffn.shared.down", "attn.v_b"] {
        assert_eq!(dtype(name), DType::FP8_BLOCK, "{name}");
    }
    assert_eq!((dtype("attn.k_b"), dtype("ffn.router")), (DType::F32, DType::BF16));
}

//! Features of the tiny checkpoints, switched off one by one: each time, the golden must notice.
//!
//! Without this, a golden could hold although the feature that it stands for does nothing.

use std::path::{Path, PathBuf};

use binfer_shard::spec::{ActivationFn, GroupScore, Rope, RopeScaling};
use binfer_worker::layers::glu::GluLayer;
use binfer_worker::layers::gqa::GqaLayer;
use binfer_worker::layers::mla::MlaLayer;
use binfer_worker::layers::moe::MoeLayer;
use binfer_worker::layers::{AttentionLayer, FfnLayer, Layer};

use crate::harness::Permit;
use crate::rig::{TOKENS_PER_STEP, on_ranks_of};
use crate::tiny::{Case, cases, checkpoint, folders, largest};

/// Least change of the last logits of the longest prompt, relative to the largest of them.
const CHANGE_MIN: f32 = 1e-2;

fn gqa(layer: &mut Layer) -> Option<&mut GqaLayer> {
    match &mut layer.attention {
        AttentionLayer::Gqa(gqa) => Some(gqa),
        AttentionLayer::Mla(_) => None,
    }
}

fn mla(layer: &mut Layer) -> Option<&mut MlaLayer> {
    match &mut layer.attention {
        AttentionLayer::Mla(mla) => Some(mla),
        AttentionLayer::Gqa(_) => None,
    }
}

fn rope(layer: &mut Layer) -> &mut Rope {
    match &mut layer.attention {
        AttentionLayer::Gqa(gqa) => &mut gqa.rope,
        AttentionLayer::Mla(mla) => &mut mla.rope,
    }
}

fn glu(layer: &mut Layer) -> Option<&mut GluLayer> {
    match &mut layer.ffn {
        FfnLayer::Glu(glu) => Some(glu),
        FfnLayer::Moe(_) => None,
    }
}

fn moe(layer: &mut Layer) -> Option<&mut MoeLayer> {
    match &mut layer.ffn {
        FfnLayer::Moe(moe) => Some(moe),
        FfnLayer::Glu(_) => None,
    }
}

/// Switches a feature of a layer off; whether the layer has it.
type Off = fn(&mut Layer) -> Option<bool>;

const FEATURES: [(&str, Off); 27] = [
    ("theta", |layer| {
        rope(layer).theta *= 50.0;
        Some(true)
    }),
    ("rope scaling", |layer| {
        let scaling = &mut rope(layer).scaling;
        Some(std::mem::replace(scaling, RopeScaling::None) != RopeScaling::None)
    }),
    ("YaRN's factor", |layer| {
        let RopeScaling::Yarn { attention_factor, .. } = &mut rope(layer).scaling else {
            return None;
        };
        Some(std::mem::replace(attention_factor, 1.0) != 1.0)
    }),
    ("YaRN's whole bounds", |layer| {
        let RopeScaling::Yarn { truncate, .. } = &mut rope(layer).scaling else { return None };
        Some(!std::mem::replace(truncate, true))
    }),
    ("qkv bias", |layer| Some(gqa(layer)?.qkv_bias.take().is_some())),
    ("out bias", |layer| Some(gqa(layer)?.out_bias.take().is_some())),
    ("gate and up bias", |layer| Some(glu(layer)?.gate_up_bias.take().is_some())),
    ("down bias", |layer| Some(glu(layer)?.down_bias.take().is_some())),
    ("q norm", |layer| Some(gqa(layer)?.q_norm.take().is_some())),
    ("k norm", |layer| Some(gqa(layer)?.k_norm.take().is_some())),
    ("window", |layer| Some(gqa(layer)?.window.take().is_some())),
    ("window's edge", |layer| {
        let window = &mut gqa(layer)?.window;
        *window = window.map(|positions| positions + 1);
        Some(window.is_some())
    }),
    ("sinks", |layer| Some(gqa(layer)?.sinks.take().is_some())),
    ("mscale", |layer| {
        let mla = mla(layer)?;
        let plain = 1.0 / ((mla.dims.nope + mla.rope.dims) as f32).sqrt();
        let scaled = std::mem::replace(&mut mla.scale, plain);
        Some((scaled / plain - 1.0).abs() > 1e-3)
    }),
    ("clamp", |layer| {
        let ActivationFn::ClampedSwiglu { limit } = &mut moe(layer)?.act else { return None };
        *limit = 1e9;
        Some(true)
    }),
    ("alpha and one of the clamped unit", |layer| {
        let act = std::mem::replace(&mut moe(layer)?.act, ActivationFn::Silu);
        Some(act != ActivationFn::Silu)
    }),
    ("router bias", |layer| Some(moe(layer)?.router_bias.take().is_some())),
    ("correction", |layer| Some(moe(layer)?.correction.take().is_some())),
    ("experts' gate and up bias", |layer| Some(moe(layer)?.gate_up_bias.take().is_some())),
    ("experts' down bias", |layer| Some(moe(layer)?.down_bias.take().is_some())),
    ("normalised weights", |layer| {
        let routing = &mut moe(layer)?.routing;
        routing.normalize = !routing.normalize;
        Some(true)
    }),
    ("routing scale", |layer| Some(std::mem::replace(&mut moe(layer)?.routing.scale, 1.0) != 1.0)),
    ("one expert fewer", |layer| {
        moe(layer)?.routing.top_k -= 1;
        Some(true)
    }),
    ("expert groups", |layer| Some(moe(layer)?.routing.expert_groups.take().is_some())),
    ("group scores", |layer| {
        let groups = moe(layer)?.routing.expert_groups.as_mut()?;
        groups.score = match groups.score {
            GroupScore::Max => GroupScore::TopTwoSum,
            GroupScore::TopTwoSum => GroupScore::Max,
        };
        Some(true)
    }),
    ("shared expert", |layer| Some(moe(layer)?.shared.take().is_some())),
    ("shared expert's gate", |layer| Some(moe(layer)?.shared.as_mut()?.gate.take().is_some())),
];

const QWEN2_MOE: &[&str] = &["qkv bias", "shared expert", "shared expert's gate"];
const QWEN3_MOE: &[&str] = &["q norm", "k norm"];
const GPT_OSS: &[&str] = &[
    "rope scaling",
    "YaRN's factor",
    "YaRN's whole bounds",
    "qkv bias",
    "out bias",
    "window",
    "window's edge",
    "sinks",
    "clamp",
    "alpha and one of the clamped unit",
    "router bias",
    "experts' gate and up bias",
    "experts' down bias",
];
const DEEPSEEK_V2_LITE: &[&str] = &["rope scaling", "mscale", "shared expert", "routing scale"];
const DEEPSEEK_V2: &[&str] = &[
    "rope scaling",
    "YaRN's factor",
    "mscale",
    "shared expert",
    "routing scale",
    "expert groups",
    "group scores",
];
const DEEPSEEK_V3: &[&str] = &[
    "rope scaling",
    "mscale",
    "correction",
    "routing scale",
    "expert groups",
    "group scores",
    "shared expert",
];
/// What every mixture has.
const MIXTURE: [&str; 2] = ["normalised weights", "one expert fewer"];

/// What each checkpoint has besides its theta.
const CHECKPOINTS: [(&str, &[&str]); 19] = [
    ("deepseek-v2", DEEPSEEK_V2),
    ("deepseek-v2-lite", DEEPSEEK_V2_LITE),
    ("deepseek-v3", DEEPSEEK_V3),
    ("deepseek-v3-fp8", DEEPSEEK_V3),
    ("gpt-oss-bf16", GPT_OSS),
    ("gpt-oss-mxfp4", GPT_OSS),
    ("llama-bias", &["qkv bias", "out bias", "gate and up bias", "down bias"]),
    ("llama-dynamic", &["rope scaling"]),
    ("llama-linear", &["rope scaling"]),
    ("llama2", &[]),
    ("llama31", &["rope scaling"]),
    ("mistral", &["window", "window's edge"]),
    ("mixtral", &[]),
    ("qwen2", &["qkv bias"]),
    ("qwen2-moe", QWEN2_MOE),
    ("qwen3", &["q norm", "k norm"]),
    ("qwen3-moe", QWEN3_MOE),
    ("qwen3-moe-fused", QWEN3_MOE),
    ("qwen3-yarn", &["rope scaling", "YaRN's factor", "q norm", "k norm"]),
];

/// Folders of checkpoints that are no GGUF file, whose numbers are those of another folder.
fn distinct_folders() -> Vec<PathBuf> {
    folders().into_iter().filter(|folder| checkpoint(folder) == *folder).collect()
}

/// How far the logits of `case` are from their golden when `off` was applied to every layer; `None`
/// if no layer has the feature.
fn change(folder: &Path, case: &Case, off: Off) -> Option<f32> {
    on_ranks_of(folder, 1, |rig| {
        rig.limit_positions(case.longest);
        let had: Vec<_> = rig.layers().iter_mut().map(off).collect();
        had.contains(&Some(true)).then(|| {
            let (logits, _) = rig.feed(0, &case.prompt_ids, TOKENS_PER_STEP);
            let pairs = logits.iter().zip(&case.logits);
            largest(pairs.map(|(one, other)| one - other)) / largest(case.logits.iter().copied())
        })
    })
}

#[test]
fn every_golden_notices_when_a_feature_is_missing() {
    let _permit = Permit::one();
    let mut folders = distinct_folders();
    folders.sort_by_key(|folder| folder.file_name().map(ToOwned::to_owned));
    assert_eq!(folders.len(), CHECKPOINTS.len());
    let mut faults = Vec::new();
    for ((name, has), folder) in CHECKPOINTS.iter().zip(&folders) {
        assert!(folder.ends_with(name), "{name} is not {folder:?}");
        let cases = cases(folder);
        let longest = &cases[cases.len() - 1];
        let is_mixture = folder.components().any(|part| part.as_os_str() == "mixtures");
        for (feature, off) in FEATURES {
            let change = change(folder, longest, off);
            let everywhere = feature == "theta" || is_mixture && MIXTURE.contains(&feature);
            let expected = everywhere || has.contains(&feature);
            if change.is_some() != expected {
                faults.push(format!("{name} has {feature}: {}", change.is_some()));
            }
            if let Some(change) = change.filter(|change| change.is_nan() || *change <= CHANGE_MIN) {
                faults.push(format!("{name} without {feature}: {change}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn the_golden_of_qwen2_notices_a_window_that_does_not_apply() {
    let _permit = Permit::one();
    let folder = folders().into_iter().find(|folder| folder.ends_with("qwen2")).unwrap();
    let cases = cases(&folder);
    let heeded: Off = |layer| Some(gqa(layer)?.window.replace(32).is_none());
    let change = change(&folder, &cases[cases.len() - 1], heeded).unwrap();
    assert!(change > CHANGE_MIN, "{change}");
}

//! Features of the tiny checkpoints, switched off one by one: each time, the golden must notice.
//!
//! Without this, a golden could hold although the feature that it stands for does nothing.

use binfer_shard::spec::RopeScaling;
use binfer_worker::layers::glu::GluLayer;
use binfer_worker::layers::gqa::GqaLayer;
use binfer_worker::layers::{AttentionLayer, FfnLayer, Layer};

use crate::harness::{Permit, repository};
use crate::rig::{TOKENS_PER_STEP, on_ranks_of};
use crate::tiny::{Case, cases, folders, largest};

/// Least change of the last logits of the longest prompt, relative to the largest of them.
const CHANGE_MIN: f32 = 1e-2;

fn gqa(layer: &mut Layer) -> &mut GqaLayer {
    match &mut layer.attention {
        AttentionLayer::Gqa(gqa) => gqa,
        AttentionLayer::Mla(_) => panic!("no grouped-query attention"),
    }
}

fn glu(layer: &mut Layer) -> &mut GluLayer {
    match &mut layer.ffn {
        FfnLayer::Glu(glu) => glu,
        FfnLayer::Moe(_) => panic!("no gated linear unit"),
    }
}

/// Switches a feature of a layer off; whether the layer has it.
type Off = fn(&mut Layer) -> bool;

const FEATURES: [(&str, Off); 11] = [
    ("theta", |layer| {
        gqa(layer).rope.theta *= 50.0;
        true
    }),
    ("rope scaling", |layer| {
        let scaling = &mut gqa(layer).rope.scaling;
        std::mem::replace(scaling, RopeScaling::None) != RopeScaling::None
    }),
    ("YaRN's factor", |layer| {
        let RopeScaling::Yarn { attention_factor, .. } = &mut gqa(layer).rope.scaling else {
            return false;
        };
        *attention_factor = 1.0;
        true
    }),
    ("qkv bias", |layer| gqa(layer).qkv_bias.take().is_some()),
    ("out bias", |layer| gqa(layer).out_bias.take().is_some()),
    ("gate and up bias", |layer| glu(layer).gate_up_bias.take().is_some()),
    ("down bias", |layer| glu(layer).down_bias.take().is_some()),
    ("q norm", |layer| gqa(layer).q_norm.take().is_some()),
    ("k norm", |layer| gqa(layer).k_norm.take().is_some()),
    ("window", |layer| gqa(layer).window.take().is_some()),
    ("window's edge", |layer| {
        let window = &mut gqa(layer).window;
        *window = window.map(|positions| positions + 1);
        window.is_some()
    }),
];

/// What each checkpoint has besides its theta.
const CHECKPOINTS: [(&str, &[&str]); 9] = [
    ("llama-bias", &["qkv bias", "out bias", "gate and up bias", "down bias"]),
    ("llama-dynamic", &["rope scaling"]),
    ("llama-linear", &["rope scaling"]),
    ("llama2", &[]),
    ("llama31", &["rope scaling"]),
    ("mistral", &["window", "window's edge"]),
    ("qwen2", &["qkv bias"]),
    ("qwen3", &["q norm", "k norm"]),
    ("qwen3-yarn", &["rope scaling", "YaRN's factor", "q norm", "k norm"]),
];

/// How far the logits of `case` are from their golden when `off` was applied to every layer; `None`
/// if no layer has the feature.
fn change(name: &str, case: &Case, off: Off) -> Option<f32> {
    let folder = repository("tests/fixtures/tiny").join(name);
    on_ranks_of(&folder, 1, |rig| {
        rig.limit_positions(case.longest);
        let had: Vec<bool> = rig.layers().iter_mut().map(off).collect();
        had.contains(&true).then(|| {
            let (logits, _) = rig.feed(0, &case.prompt_ids, TOKENS_PER_STEP);
            let pairs = logits.iter().zip(&case.logits);
            largest(pairs.map(|(one, other)| one - other)) / largest(case.logits.iter().copied())
        })
    })
}

#[test]
fn every_golden_notices_when_a_feature_is_missing() {
    let _permit = Permit::one();
    assert_eq!(folders().len(), CHECKPOINTS.len());
    for (name, has) in CHECKPOINTS {
        let cases = cases(&repository("tests/fixtures/tiny").join(name));
        let longest = &cases[cases.len() - 1];
        for (feature, off) in FEATURES {
            let change = change(name, longest, off);
            let expected = feature == "theta" || has.contains(&feature);
            assert_eq!(change.is_some(), expected, "{name}: {feature}");
            if let Some(change) = change {
                assert!(change > CHANGE_MIN, "{name} without {feature}: {change}");
            }
        }
    }
}

#[test]
fn the_golden_of_qwen2_notices_a_window_that_does_not_apply() {
    let _permit = Permit::one();
    let cases = cases(&repository("tests/fixtures/tiny/qwen2"));
    let heeded: Off = |layer| gqa(layer).window.replace(32).is_none();
    let change = change("qwen2", &cases[cases.len() - 1], heeded).unwrap();
    assert!(change > CHANGE_MIN, "{change}");
}

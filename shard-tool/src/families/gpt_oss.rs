//! gpt-oss: sinks, a window on every other layer, biases everywhere, clamped SwiGLU.

use super::window_on;
use crate::decoder::{
    AttentionKind, Defaults, Family, Features, GgufForm, GgufMixture, HUGGING_FACE, LLAMA_CPP,
    Mixture, MixtureFeatures, MixtureForm, MixtureLayers, Names, TensorRole, WindowLayers,
};
use crate::forms::FusedExperts;
use crate::hf::ConfigJson;
use crate::spec::{ActivationFn, Moe, RouterScores, Routing};
use crate::{Error, ErrorKind};

const NAMES: Names = HUGGING_FACE
    .with(|role| match role {
        TensorRole::Router => "mlp.router",
        other => (HUGGING_FACE.of)(other),
    })
    .fused(FusedExperts::Alternating);

/// Where gate and up are clamped in every published model.
const CLAMP: f32 = 7.0;

pub(super) const FAMILY: Family = Family {
    name: "gpt_oss",
    class: "GptOssForCausalLM",
    keys: &["attention_bias", "sliding_window", "layer_types"],
    defaults: Defaults {
        kv_heads: Some(8),
        head_dim: Some(64),
        positions: 131_072,
        theta: 150_000.0,
    },
    attention: AttentionKind::Grouped,
    features: |config| {
        if ["rope_scaling", "rope_parameters"].iter().all(|key| config.get(key).is_none()) {
            let cause = "neither rope_scaling nor rope_parameters says how positions are scaled";
            return Err(config.error(ErrorKind::Format, cause));
        }
        let bias = config.bool("attention_bias")?.unwrap_or(true);
        let positions = config.u32("sliding_window")?.unwrap_or(128);
        let window = window_on(config, positions, WindowLayers::EvenBelow(u32::MAX))?;
        Ok(Features {
            qkv_bias: bias,
            out_bias: bias,
            sinks: true,
            mixture: MixtureFeatures {
                router_bias: true,
                expert_bias: true,
                ..MixtureFeatures::default()
            },
            window: Some(window),
            ..Features::default()
        })
    },
    mixture: Some(MixtureForm {
        keys: &[
            "num_local_experts",
            "num_experts_per_tok",
            "experts_per_token",
            "swiglu_limit",
            "swiglu_alpha",
        ],
        read: mixture,
    }),
    names: NAMES,
    gguf: Some(GgufForm {
        keys: &["attention.sliding_window"],
        features: |_| Features {
            qkv_bias: true,
            out_bias: true,
            sinks: true,
            ..Features::default()
        },
        window: Some(WindowLayers::EvenBelow(u32::MAX)),
        truncated_yarn: false,
        mixture: Some(GgufMixture {
            act: ActivationFn::ClampedSwiglu { limit: CLAMP },
            normalize: true,
        }),
        names: LLAMA_CPP.with(|role| match role {
            TensorRole::FfnNorm => "post_attention_norm",
            other => (LLAMA_CPP.of)(other),
        }),
        ..GgufForm::plain("gpt-oss")
    }),
};

/// The chosen experts are weighed by softmax over them.
fn mixture(config: &ConfigJson) -> Result<Mixture, Error> {
    let top_k = config.u32_of_either(["num_experts_per_tok", "experts_per_token"])?;
    let routing = Routing {
        top_k: top_k.unwrap_or(4),
        scores: RouterScores::Softmax,
        normalize: true,
        scale: 1.0,
        expert_groups: None,
    };
    let moe = Moe {
        experts: config.u32("num_local_experts")?.unwrap_or(128),
        inner: config.positive("intermediate_size")?,
        act: ActivationFn::ClampedSwiglu { limit: clamp(config)? },
        routing,
        shared_inner: None,
    };
    Ok(Mixture { moe, layers: MixtureLayers::ALL })
}

/// Where gate and up are clamped.
#[expect(clippy::cast_possible_truncation, reason = "single precision is what it is used in")]
fn clamp(config: &ConfigJson) -> Result<f32, Error> {
    let alpha = config.float("swiglu_alpha")?.map(|alpha| alpha as f32);
    if alpha.is_some_and(|alpha| alpha != ActivationFn::SWIGLU_ALPHA) {
        let error = config.not_supported(&[format!("swiglu_alpha = {}", alpha.unwrap_or(0.0))]);
        return Err(error.way_out(format!("supported: {}", ActivationFn::SWIGLU_ALPHA)));
    }
    match config.float("swiglu_limit")?.unwrap_or(CLAMP.into()) {
        limit if limit > 0.0 => Ok(limit as f32),
        limit => Err(config.error(ErrorKind::Mismatch, format!("swiglu_limit is {limit}"))),
    }
}

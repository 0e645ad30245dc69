//! DeepSeek V2: latent attention, softmax routing, shared experts, first layers dense.

use crate::decoder::{
    AttentionKind, Defaults, Family, Features, GgufForm, GgufMixture, HUGGING_FACE, Mixture,
    MixtureForm, MixtureLayers, Names, THETA_DEFAULT, TensorRole,
};
use crate::hf::ConfigJson;
use crate::spec::{ActivationFn, ExpertGroups, GroupScore, Moe, RouterScores, Routing};
use crate::{Error, ErrorKind};

/// Keys of the mixtures, which version 3 says alike.
pub(super) const KEYS: &[&str] = &[
    "first_k_dense_replace",
    "moe_intermediate_size",
    "n_group",
    "n_routed_experts",
    "n_shared_experts",
    "norm_topk_prob",
    "num_experts_per_tok",
    "routed_scaling_factor",
    "scoring_func",
    "topk_group",
    "topk_method",
];

pub(super) const NAMES: Names = HUGGING_FACE.with(|role| match role {
    TensorRole::SharedGate => "mlp.shared_experts.gate_proj",
    TensorRole::SharedUp => "mlp.shared_experts.up_proj",
    TensorRole::SharedDown => "mlp.shared_experts.down_proj",
    other => (HUGGING_FACE.of)(other),
});

pub(super) const FAMILY: Family = Family {
    name: "deepseek_v2",
    class: "DeepseekV2ForCausalLM",
    keys: &["attention_bias"],
    defaults: Defaults { kv_heads: None, head_dim: None, positions: 2048, theta: THETA_DEFAULT },
    attention: AttentionKind::Latent,
    features: |config| {
        let bias = config.bool("attention_bias")?.unwrap_or(false);
        let interleaved_rope = true;
        Ok(Features { qkv_bias: bias, out_bias: bias, interleaved_rope, ..Features::default() })
    },
    mixture: Some(MixtureForm { keys: KEYS, read: mixture }),
    names: NAMES,
    // Version 3 is the same architecture there.
    gguf: Some(GgufForm {
        keys: &[
            "attention.key_length_mla",
            "attention.kv_lora_rank",
            "attention.q_lora_rank",
            "attention.value_length_mla",
            "rope.scaling.yarn_log_multiplier",
        ],
        features: |_| Features { interleaved_rope: true, ..Features::default() },
        mixture: Some(GgufMixture { act: ActivationFn::Silu, normalize: false }),
        ..GgufForm::plain("deepseek2")
    }),
};

fn mixture(config: &ConfigJson) -> Result<Mixture, Error> {
    only(config, "scoring_func", "softmax")?;
    // transformers ignores it, and DeepSeek's own code then leaves out routed_scaling_factor.
    if config.bool("norm_topk_prob")?.unwrap_or(false) {
        return Err(config.not_supported(&["norm_topk_prob = true".to_owned()]));
    }
    let expert_groups = match config.string("topk_method")?.unwrap_or("greedy") {
        "greedy" => None,
        "group_limited_greedy" => Some(groups(config, GroupScore::Max, [None; 2])?),
        other => return Err(config.not_supported(&[format!("topk_method = {other:?}")])),
    };
    let routing = Routing {
        top_k: config.positive("num_experts_per_tok")?,
        scores: RouterScores::Softmax,
        normalize: false,
        scale: scale(config, 1.0)?,
        expert_groups,
    };
    let numbers = MixtureNumbers { experts: 64, shared: 2, first: 0 };
    read(config, routing, &numbers)
}

/// What transformers' classes have for keys that are not there.
pub(super) struct MixtureNumbers {
    pub(super) experts: u32,
    pub(super) shared: u32,
    /// The first layer that is a mixture.
    pub(super) first: u32,
}

/// Experts and layers, as versions 2 and 3 say them.
pub(super) fn read(
    config: &ConfigJson,
    routing: Routing,
    defaults: &MixtureNumbers,
) -> Result<Mixture, Error> {
    let or = |key: &str, default| Ok::<_, Error>(config.u32(key)?.unwrap_or(default));
    let inner = config.positive("moe_intermediate_size")?;
    let shared = or("n_shared_experts", defaults.shared)?;
    let too_many = || {
        let cause = format!("{shared} shared experts of {inner} columns are too many");
        config.error(ErrorKind::Mismatch, cause)
    };
    let shared_inner = inner.checked_mul(shared).ok_or_else(too_many)?;
    let moe = Moe {
        experts: or("n_routed_experts", defaults.experts)?,
        inner,
        act: ActivationFn::Silu,
        routing,
        shared_inner: Some(shared_inner).filter(|inner| *inner > 0),
    };
    let first = or("first_k_dense_replace", defaults.first)?;
    Ok(Mixture { moe, layers: MixtureLayers { first, step: 1, dense: Vec::new() } })
}

/// Groups of experts, by default so many and so many kept.
pub(super) fn groups(
    config: &ConfigJson,
    score: GroupScore,
    defaults: [Option<u32>; 2],
) -> Result<ExpertGroups, Error> {
    let read = |key: &str, default: Option<u32>| {
        config.required(key, config.u32(key).map(|said| said.or(default)))
    };
    let [count, kept] = defaults;
    Ok(ExpertGroups { count: read("n_group", count)?, kept: read("topk_group", kept)?, score })
}

/// What weights of experts are multiplied by.
#[expect(clippy::cast_possible_truncation, reason = "single precision is what it is used in")]
pub(super) fn scale(config: &ConfigJson, default: f64) -> Result<f32, Error> {
    Ok(config.float("routed_scaling_factor")?.unwrap_or(default) as f32)
}

/// Refuses a setting that is there and is another one.
pub(super) fn only(config: &ConfigJson, key: &str, supported: &str) -> Result<(), Error> {
    match config.string(key)? {
        Some(other) if other != supported => {
            let error = config.not_supported(&[format!("{key} = {other:?}")]);
            Err(error.way_out(format!("supported: {supported}")))
        }
        _ => Ok(()),
    }
}

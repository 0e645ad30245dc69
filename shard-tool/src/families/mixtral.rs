//! Mixtral: Mistral with mixtures of experts in all layers.

use super::window_on;
use crate::Error;
use crate::decoder::{
    AttentionKind, Defaults, Family, Features, HUGGING_FACE, Mixture, MixtureForm, MixtureLayers,
    Names, TensorRole, WindowLayers,
};
use crate::hf::ConfigJson;
use crate::spec::{ActivationFn, Moe, RouterScores, Routing};

const NAMES: Names = HUGGING_FACE.with(|role| match role {
    TensorRole::Router => "block_sparse_moe.gate",
    TensorRole::ExpertGate => "block_sparse_moe.experts.{}.w1",
    TensorRole::ExpertUp => "block_sparse_moe.experts.{}.w3",
    TensorRole::ExpertDown => "block_sparse_moe.experts.{}.w2",
    other => (HUGGING_FACE.of)(other),
});

pub(super) const FAMILY: Family = Family {
    name: "mixtral",
    class: "MixtralForCausalLM",
    keys: &["sliding_window"],
    defaults: Defaults { kv_heads: Some(8), head_dim: None, positions: 131_072, theta: 1e6 },
    attention: AttentionKind::Grouped,
    features: |config| {
        let window = config.u32("sliding_window")?;
        let on = |positions| window_on(config, positions, WindowLayers::From(0));
        Ok(Features { window: window.map(on).transpose()?, ..Features::default() })
    },
    mixture: Some(MixtureForm {
        keys: &["num_local_experts", "num_experts_per_tok"],
        read: mixture,
    }),
    names: NAMES,
    gguf: None,
};

/// The chosen experts are weighed by softmax over them.
fn mixture(config: &ConfigJson) -> Result<Mixture, Error> {
    let routing = Routing {
        top_k: config.u32("num_experts_per_tok")?.unwrap_or(2),
        scores: RouterScores::Softmax,
        normalize: true,
        scale: 1.0,
        expert_groups: None,
    };
    let moe = Moe {
        experts: config.u32("num_local_experts")?.unwrap_or(8),
        inner: config.positive("intermediate_size")?,
        act: ActivationFn::Silu,
        routing,
        shared_inner: None,
    };
    Ok(Mixture { moe, layers: MixtureLayers::ALL })
}

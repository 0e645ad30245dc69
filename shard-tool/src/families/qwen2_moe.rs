//! Qwen 1.5 and 2, mixtures of experts: biases of q, k and v; a shared expert that is weighed.

use super::{qwen3_moe, switched_window};
use crate::Error;
use crate::decoder::{
    AttentionKind, Defaults, Family, Features, GgufForm, GgufMixture, HUGGING_FACE, Mixture,
    MixtureFeatures, MixtureForm, THETA_DEFAULT, WindowLayers,
};
use crate::hf::ConfigJson;
use crate::spec::{ActivationFn, Moe};

pub(super) const FAMILY: Family = Family {
    name: "qwen2_moe",
    class: "Qwen2MoeForCausalLM",
    keys: &[
        "qkv_bias",
        "shared_expert_intermediate_size",
        "sliding_window",
        "use_sliding_window",
        "max_window_layers",
        "layer_types",
    ],
    defaults: Defaults {
        kv_heads: Some(16),
        head_dim: None,
        positions: 32_768,
        theta: THETA_DEFAULT,
    },
    attention: AttentionKind::Grouped,
    features: |config| {
        let mixture = MixtureFeatures { shared_weight: true, ..MixtureFeatures::default() };
        Ok(Features {
            qkv_bias: config.bool("qkv_bias")?.unwrap_or(true),
            mixture,
            window: switched_window(config, WindowLayers::EvenBelow)?,
            ..Features::default()
        })
    },
    mixture: Some(MixtureForm { keys: qwen3_moe::KEYS, read: mixture }),
    names: HUGGING_FACE,
    gguf: Some(GgufForm {
        features: |_| Features { qkv_bias: true, ..Features::default() },
        mixture: Some(GgufMixture { act: ActivationFn::Silu, normalize: false }),
        ..GgufForm::plain("qwen2moe")
    }),
};

fn mixture(config: &ConfigJson) -> Result<Mixture, Error> {
    let mixture = qwen3_moe::mixture(config)?;
    let shared_inner = Some(config.positive("shared_expert_intermediate_size")?);
    Ok(Mixture { moe: Moe { shared_inner, ..mixture.moe }, ..mixture })
}

//! Qwen 3, mixtures of experts: norms of q and k heads; biases of attention where said.

use super::{qwen_moe, switched_window};
use crate::decoder::{
    AttentionKind, Defaults, Family, Features, HUGGING_FACE, MixtureForm, THETA_DEFAULT,
    WindowLayers,
};

pub(super) const FAMILY: Family = Family {
    name: "qwen3_moe",
    class: "Qwen3MoeForCausalLM",
    keys: &["attention_bias", "sliding_window", "use_sliding_window", "max_window_layers"],
    defaults: Defaults {
        kv_heads: Some(4),
        head_dim: None,
        positions: 32_768,
        theta: THETA_DEFAULT,
    },
    attention: AttentionKind::Grouped,
    features: |config| {
        let attention_bias = config.bool("attention_bias")?.unwrap_or(false);
        Ok(Features {
            qkv_bias: attention_bias,
            out_bias: attention_bias,
            qk_norm: true,
            // The window is on all layers here, whatever max_window_layers says.
            window: switched_window(config, |_| WindowLayers::From(0))?,
            ..Features::default()
        })
    },
    mixture: Some(MixtureForm { keys: qwen_moe::KEYS, read: qwen_moe::mixture }),
    names: HUGGING_FACE,
    gguf: None,
};

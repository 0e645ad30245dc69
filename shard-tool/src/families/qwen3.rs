//! Qwen 3, dense: norms of q and k heads; biases of attention where said.

use super::switched_window;
use crate::decoder::{
    AttentionKind, Defaults, Family, Features, GgufForm, HUGGING_FACE, THETA_DEFAULT, WindowLayers,
};

pub(super) const FAMILY: Family = Family {
    name: "qwen3",
    class: "Qwen3ForCausalLM",
    keys: &[
        "attention_bias",
        "sliding_window",
        "use_sliding_window",
        "max_window_layers",
        "layer_types",
    ],
    defaults: Defaults {
        kv_heads: Some(32),
        head_dim: Some(128),
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
            window: switched_window(config, WindowLayers::From)?,
            ..Features::default()
        })
    },
    mixture: None,
    names: HUGGING_FACE,
    gguf: Some(GgufForm {
        features: |_| Features { qk_norm: true, ..Features::default() },
        ..GgufForm::plain("qwen3")
    }),
};

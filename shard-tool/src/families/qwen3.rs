//! Qwen 3, dense: norms of q and k heads; biases of attention where said.

use super::switched_window;
use crate::dense::{Defaults, Family, Features, GgufForm};

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
    defaults: Defaults { kv_heads: Some(32), head_dim: Some(128), positions: 32_768 },
    features: |config| {
        let attention_bias = config.bool("attention_bias")?.unwrap_or(false);
        Ok(Features {
            qkv_bias: attention_bias,
            out_bias: attention_bias,
            mlp_bias: false,
            qk_norm: true,
            window: switched_window(config)?,
        })
    },
    gguf: Some(GgufForm {
        interleaved: false,
        features: |_| Features { qk_norm: true, ..Features::default() },
    }),
};

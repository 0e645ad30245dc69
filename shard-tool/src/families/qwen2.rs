//! Qwen 2 and 2.5: biases of q, k and v; a window only where it is switched on.

use super::switched_window;
use crate::decoder::{
    AttentionKind, Defaults, Family, Features, GgufForm, HUGGING_FACE, THETA_DEFAULT, WindowLayers,
};

pub(super) const FAMILY: Family = Family {
    name: "qwen2",
    class: "Qwen2ForCausalLM",
    keys: &["sliding_window", "use_sliding_window", "max_window_layers", "layer_types"],
    defaults: Defaults {
        kv_heads: Some(32),
        head_dim: None,
        positions: 32_768,
        theta: THETA_DEFAULT,
    },
    attention: AttentionKind::Grouped,
    features: |config| {
        let window = switched_window(config, WindowLayers::From)?;
        Ok(Features { qkv_bias: true, window, ..Features::default() })
    },
    mixture: None,
    names: HUGGING_FACE,
    gguf: Some(GgufForm {
        features: |_| Features { qkv_bias: true, ..Features::default() },
        ..GgufForm::plain("qwen2")
    }),
};

//! Mistral: llama with a sliding window on all layers, where one is said.

use super::{sliding_window, window_on};
use crate::decoder::{
    AttentionKind, Defaults, Family, Features, HUGGING_FACE, THETA_DEFAULT, WindowLayers,
};

pub(super) const FAMILY: Family = Family {
    name: "mistral",
    class: "MistralForCausalLM",
    keys: &["sliding_window"],
    defaults: Defaults {
        kv_heads: Some(8),
        head_dim: None,
        positions: 131_072,
        theta: THETA_DEFAULT,
    },
    attention: AttentionKind::Grouped,
    features: |config| {
        let window = sliding_window(config)?;
        let window = window
            .map(|positions| window_on(config, positions, WindowLayers::From(0)))
            .transpose()?;
        Ok(Features { window, ..Features::default() })
    },
    mixture: None,
    names: HUGGING_FACE,
    gguf: None,
};

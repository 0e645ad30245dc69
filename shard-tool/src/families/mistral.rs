//! Mistral: llama with a sliding window on all layers, where one is said.

use super::{sliding_window, window_from};
use crate::dense::{Defaults, Family, Features};

pub(super) const FAMILY: Family = Family {
    name: "mistral",
    class: "MistralForCausalLM",
    keys: &["sliding_window"],
    defaults: Defaults { kv_heads: Some(8), head_dim: None, positions: 131_072 },
    features: |config| {
        let window = sliding_window(config)?;
        let window = window.map(|positions| window_from(config, positions, 0)).transpose()?;
        Ok(Features { window, ..Features::default() })
    },
    gguf: None,
};

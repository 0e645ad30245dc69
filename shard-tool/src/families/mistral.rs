//! Mistral: llama with a sliding window on all layers, where one is said.

use super::{Family, window};
use crate::dense::Features;

pub(super) const FAMILY: Family = Family {
    name: "mistral",
    class: "MistralForCausalLM",
    keys: &["sliding_window"],
    multi_head_default: false,
    features: |config| {
        let positions = config.u32("sliding_window")?;
        let window = positions.map(|positions| window(config, positions, 0)).transpose()?;
        Ok(Features { window, ..Features::default() })
    },
    gguf: None,
};

//! What sets the families of dense decoders apart, as a table.

use crate::Error;
use crate::ModelSpec;
use crate::hf::ConfigJson;
use crate::weight_map::WeightMap;

/// A family of dense decoders.
pub(crate) struct Family {
    /// `model_type` of config.json, and `general.architecture` of GGUF.
    pub(crate) name: &'static str,
    /// `architectures[0]` of config.json.
    pub(crate) class: &'static str,
    /// Keys of config.json that `features` reads.
    pub(crate) keys: &'static [&'static str],
    /// Values of keys that config.json lacks.
    pub(crate) defaults: Defaults,
    /// What config.json says the model has.
    pub(crate) features: fn(&ConfigJson) -> Result<Features, Error>,
    /// How llama.cpp writes the family; `None` where it has no such architecture, or counts it
    /// among llama.
    pub(crate) gguf: Option<GgufForm>,
}

/// The values that transformers' configuration class has for keys that are not there.
pub(crate) struct Defaults {
    /// `num_key_value_heads`; `None` stands for as many as query heads, which null is in every
    /// family.
    pub(crate) kv_heads: Option<u32>,
    /// `head_dim`; `None` stands for each head's part of the hidden state.
    pub(crate) head_dim: Option<u32>,
    /// `max_position_embeddings`.
    pub(crate) positions: u32,
}

/// How llama.cpp's converter writes a family.
pub(crate) struct GgufForm {
    /// Whether rows of q and k are interleaved, see [`crate::spec::RowOrder`].
    pub(crate) interleaved: bool,
    /// What the model has; the metadata do not say which optional tensors there are.
    pub(crate) features: fn(&WeightMap) -> Features,
}

/// A model as its settings describe it.
pub(crate) struct Described {
    pub(crate) spec: ModelSpec,
    /// What a person should hear of the settings, in whole lines.
    pub(crate) notes: Vec<String>,
}

/// Parts that some families have and others lack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// Biases of q, k and v.
    pub(crate) qkv_bias: bool,
    /// Bias of attention's output.
    pub(crate) out_bias: bool,
    /// Biases of gate, up and down.
    pub(crate) mlp_bias: bool,
    /// RMS norm of each q and k head.
    pub(crate) qk_norm: bool,
    /// Layers that see only the last positions.
    pub(crate) window: Option<Window>,
}

/// A sliding window, on all layers from `first_layer` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) positions: u32,
    pub(crate) first_layer: u32,
}

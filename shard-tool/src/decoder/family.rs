//! What sets the families of decoders apart, as a table.

use super::mixture::Mixture;
use super::names::{LLAMA_CPP, Names};
use crate::Error;
use crate::ModelSpec;
use crate::hf::ConfigJson;
use crate::spec::ActivationFn;
use crate::weight_map::WeightMap;

/// A family of decoders.
pub(crate) struct Family {
    /// `model_type` of config.json.
    pub(crate) name: &'static str,
    /// `architectures[0]` of config.json.
    pub(crate) class: &'static str,
    /// Keys of config.json that `features` reads.
    pub(crate) keys: &'static [&'static str],
    /// Values of keys that config.json lacks.
    pub(crate) defaults: Defaults,
    pub(crate) attention: AttentionKind,
    /// What config.json says the model has.
    pub(crate) features: fn(&ConfigJson) -> Result<Features, Error>,
    /// How config.json describes mixtures of experts; `None` where the family has none.
    pub(crate) mixture: Option<MixtureForm>,
    /// What Hugging Face folders call its tensors.
    pub(crate) names: Names,
    /// How llama.cpp writes the family; `None` where it has no such architecture, or counts it
    /// among llama.
    pub(crate) gguf: Option<GgufForm>,
}

/// Kinds of attention, as `config.json` describes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttentionKind {
    /// Grouped-query attention.
    Grouped,
    /// DeepSeek's latent attention.
    Latent,
}

/// How config.json describes a family's mixtures of experts.
pub(crate) struct MixtureForm {
    /// Keys that `read` reads.
    pub(crate) keys: &'static [&'static str],
    pub(crate) read: fn(&ConfigJson) -> Result<Mixture, Error>,
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
    /// `rope_theta`.
    pub(crate) theta: f64,
}

/// How llama.cpp's converter writes a family.
pub(crate) struct GgufForm {
    /// `general.architecture`.
    pub(crate) name: &'static str,
    /// Keys after the architecture's name that this architecture has besides.
    pub(crate) keys: &'static [&'static str],
    /// Whether rows of q and k are interleaved, see [`crate::spec::RowOrder`].
    pub(crate) interleaved: bool,
    /// What the model has; the metadata do not say which optional tensors there are.
    pub(crate) features: fn(&WeightMap) -> Features,
    /// The layers that the sliding window of the metadata is on; `None` where there is none.
    pub(crate) window: Option<WindowLayers>,
    /// Whether the bounds of `YaRN`'s ramp are rounded, which the metadata do not say.
    pub(crate) truncated_yarn: bool,
    /// Mixtures of experts; `None` where the architecture has none.
    pub(crate) mixture: Option<GgufMixture>,
    pub(crate) names: Names,
}

impl GgufForm {
    /// An architecture of that name without peculiarities.
    pub(crate) const fn plain(name: &'static str) -> Self {
        Self {
            name,
            keys: &[],
            interleaved: false,
            features: |_| Features::NONE,
            window: None,
            truncated_yarn: true,
            mixture: None,
            names: LLAMA_CPP,
        }
    }
}

/// What the metadata do not say of an architecture's mixtures.
pub(crate) struct GgufMixture {
    pub(crate) act: ActivationFn,
    /// Whether weights are divided by their sum where no key says it.
    pub(crate) normalize: bool,
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
    /// Biases of q, k and v, or of the products before them in latent attention.
    pub(crate) qkv_bias: bool,
    /// Bias of attention's output.
    pub(crate) out_bias: bool,
    /// Biases of gate, up and down.
    pub(crate) mlp_bias: bool,
    /// RMS norm of each q and k head.
    pub(crate) qk_norm: bool,
    /// A logit for each head that takes part in attention's softmax and in nothing else.
    pub(crate) sinks: bool,
    /// Whether latent attention rotates pairs of neighbours in the order of the checkpoint.
    pub(crate) interleaved_rope: bool,
    pub(crate) mixture: MixtureFeatures,
    /// Layers behind the last one that predict further tokens, which are not used.
    pub(crate) prediction_layers: u32,
    /// Layers that see only the last positions.
    pub(crate) window: Option<Window>,
}

impl Features {
    /// None of them.
    pub(crate) const NONE: Self = Self {
        qkv_bias: false,
        out_bias: false,
        mlp_bias: false,
        qk_norm: false,
        sinks: false,
        interleaved_rope: false,
        mixture: MixtureFeatures {
            router_bias: false,
            correction: false,
            expert_bias: false,
            shared_weight: false,
        },
        prediction_layers: 0,
        window: None,
    };
}

/// Parts of mixtures of experts that some families have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MixtureFeatures {
    /// Bias of the router.
    pub(crate) router_bias: bool,
    /// Numbers that are added to the router's scores for the choice alone.
    pub(crate) correction: bool,
    /// Biases of the experts' gate, up and down.
    pub(crate) expert_bias: bool,
    /// A product that weighs the shared expert.
    pub(crate) shared_weight: bool,
}

/// A sliding window, on some layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) positions: u32,
    pub(crate) layers: WindowLayers,
}

/// Which layers have a sliding window where `layer_types` does not say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WindowLayers {
    /// From this one on.
    From(u32),
    /// The first, the third and so on, below this one.
    EvenBelow(u32),
}

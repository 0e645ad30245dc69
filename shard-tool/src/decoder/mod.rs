//! What decoders share: RMS norm, attention with rope, and a gated feed-forward or a mixture of
//! them.
//!
//! Settings of either container become a [`Decoder`], and that becomes a [`ModelSpec`]. A
//! [`Family`] says what sets an architecture apart; nothing here asks which family it is.

mod attention;
mod checks;
mod config;
mod family;
mod metadata;
mod metadata_keys;
mod metadata_mixture;
mod mixture;
mod names;
mod normalise;
mod quantisation;
mod rope;
mod rope_freqs;
mod table;
mod tensors;

use std::path::Path;

pub(crate) use config::from_config;
pub(crate) use family::{
    AttentionKind, Defaults, Described, Family, Features, GgufForm, GgufMixture, MixtureFeatures,
    MixtureForm, Window, WindowLayers,
};
pub(crate) use metadata::from_gguf;
pub(crate) use mixture::{Mixture, MixtureLayers};
pub(crate) use names::{HUGGING_FACE, LLAMA_CPP, Names, TensorRole};
pub(crate) use rope::THETA_DEFAULT;

use crate::spec::{BLOCK_TOKENS, Ffn, KvGroupSpec, KvKind, KvShape, LayerSpec, Mixer};
use crate::weight_map::WeightMap;
use crate::{Error, ModelSpec};
use normalise::normalise;
use quantisation::Quantisation;
use table::TensorTable;
use tensors::Tensors;

/// The numbers of a model, checked against each other.
struct Decoder {
    architecture: &'static str,
    hidden: u32,
    vocab: u32,
    context_max: u32,
    norm_eps: f32,
    tied_head: bool,
    /// Attention, the same in all layers but for what the cache keeps.
    mixer: Mixer,
    /// The feed-forward of each layer.
    ffns: Vec<Ffn>,
    /// Which positions each layer's cache keeps.
    kv_kinds: Vec<KvKind>,
    features: Features,
    quantisation: Quantisation,
}

impl Decoder {
    /// The spec, bound to the tensors of a checkpoint. Also returns notes about its tensors.
    fn spec(
        self,
        names: &Names,
        weight_map: &mut WeightMap,
        path: &Path,
    ) -> Result<(ModelSpec, Vec<String>), Error> {
        normalise(&self, names, weight_map).map_err(|error| error.in_file(path))?;
        let tensors = Tensors::new(weight_map, names.settings_tensors);
        let mut table = TensorTable { decoder: &self, names, tensors };
        table.vocab_rows("embed", names.embed);
        for layer in 0..self.ffns.len() {
            table.layer(layer);
        }
        table.final_norm();
        if !self.tied_head {
            table.vocab_rows("head", names.head);
        }
        let notes = table.tensors.ignore_layers(names.layers, self.unused_layers());
        let tensors = table.tensors.finish(path)?;
        let (layers, kv_groups) = self.layers();
        let spec = ModelSpec {
            architecture: self.architecture.into(),
            hidden: self.hidden,
            vocab: self.vocab,
            context_max: self.context_max,
            norm_eps: self.norm_eps,
            tied_head: self.tied_head,
            layers,
            kv_groups,
            tensors,
        };
        Ok((spec, notes))
    }

    /// Layers behind the last one, which predict several tokens at once and are not used.
    fn unused_layers(&self) -> std::ops::Range<usize> {
        let end = self.ffns.len();
        end..end.saturating_add(self.features.prediction_layers as usize)
    }

    /// Layers, and a KV group for each kind of cache in the order of their first layers.
    fn layers(&self) -> (Vec<LayerSpec>, Vec<KvGroupSpec>) {
        let shape = match self.mixer {
            Mixer::Gqa(gqa) => KvShape::Heads { kv_heads: gqa.kv_heads, head_dim: gqa.head_dim },
            Mixer::Mla(mla) => KvShape::Latent { width: mla.cached_dim() },
        };
        let mut kv_groups: Vec<KvGroupSpec> = Vec::new();
        let mut layers = Vec::new();
        for (kind, ffn) in self.kv_kinds.iter().zip(&self.ffns) {
            let found = kv_groups.iter().position(|of| of.kind == *kind);
            let kv_group = found.unwrap_or(kv_groups.len());
            if found.is_none() {
                let (kind, block_tokens) = (*kind, BLOCK_TOKENS);
                kv_groups.push(KvGroupSpec { kind, shape, block_tokens, layers: 0 });
            }
            kv_groups[kv_group].layers += 1;
            layers.push(LayerSpec { mixer: self.mixer, ffn: *ffn, kv_group });
        }
        (layers, kv_groups)
    }
}

//! What dense decoders share: RMS norm, grouped-query attention with rope, SiLU-gated FFN.
//!
//! Settings of either container become a [`Dense`], and that becomes a [`ModelSpec`]. A [`Family`]
//! says what sets an architecture apart; nothing here asks which family it is.

mod config;
mod family;
mod metadata;
mod names;
mod rope;
mod rope_freqs;
mod tensors;

use std::path::Path;

pub(crate) use config::from_config;
pub(crate) use family::{Defaults, Described, Family, Features, GgufForm, Window};
pub(crate) use metadata::from_gguf;

use crate::spec::{
    ActivationFn, BLOCK_TOKENS, Ffn, Gqa, KvGroupSpec, KvKind, KvShape, LayerSpec, Mixer, RowOrder,
    TensorCut,
};
use crate::weight_map::WeightMap;
use crate::{Error, ErrorKind, ModelSpec};
use names::{Names, TensorRole};
use tensors::{Line, Tensors};

/// The numbers of a model, checked against each other.
struct Dense {
    architecture: &'static str,
    hidden: u32,
    inner: u32,
    vocab: u32,
    context_max: u32,
    norm_eps: f32,
    tied_head: bool,
    gqa: Gqa,
    /// Which positions each layer's cache keeps.
    kv_kinds: Vec<KvKind>,
    features: Features,
}

impl Dense {
    /// The spec, bound to the tensors of a checkpoint.
    fn spec(self, names: &Names, weight_map: &WeightMap, path: &Path) -> Result<ModelSpec, Error> {
        let mut table = TensorTable {
            dense: &self,
            names,
            tensors: Tensors::new(weight_map, names.settings_tensors),
        };
        table.vocab_rows("embed", names.embed);
        for layer in 0..self.kv_kinds.len() {
            table.attention(layer);
            table.ffn(layer);
        }
        let norm = table.line(format!("{}.weight", names.final_norm), 1, self.hidden);
        table.tensors.add("final.norm".into(), None, TensorCut::Replicated, vec![norm]);
        if !self.tied_head {
            table.vocab_rows("head", names.head);
        }
        let tensors = table.tensors.finish(path)?;
        let (layers, kv_groups) = self.layers();
        Ok(ModelSpec {
            architecture: self.architecture.into(),
            hidden: self.hidden,
            vocab: self.vocab,
            context_max: self.context_max,
            norm_eps: self.norm_eps,
            tied_head: self.tied_head,
            layers,
            kv_groups,
            tensors,
        })
    }

    /// Layers, and a KV group for each kind of cache in the order of their first layers.
    fn layers(&self) -> (Vec<LayerSpec>, Vec<KvGroupSpec>) {
        let mut kv_groups: Vec<KvGroupSpec> = Vec::new();
        let mut layers = Vec::new();
        for kind in &self.kv_kinds {
            let found = kv_groups.iter().position(|of| of.kind == *kind);
            let kv_group = found.unwrap_or(kv_groups.len());
            if found.is_none() {
                kv_groups.push(KvGroupSpec {
                    kind: *kind,
                    shape: KvShape::Heads {
                        kv_heads: self.gqa.kv_heads,
                        head_dim: self.gqa.head_dim,
                    },
                    block_tokens: BLOCK_TOKENS,
                    layers: 0,
                });
            }
            kv_groups[kv_group].layers += 1;
            let (mixer, ffn) = (Mixer::Gqa(self.gqa), self.glu());
            layers.push(LayerSpec { mixer, ffn, kv_group });
        }
        (layers, kv_groups)
    }

    fn glu(&self) -> Ffn {
        Ffn::Glu { inner: self.inner, act: ActivationFn::Silu }
    }
}

/// The tensors of a model in load order, under the names of its container.
struct TensorTable<'a> {
    dense: &'a Dense,
    names: &'a Names,
    tensors: Tensors<'a>,
}

impl TensorTable<'_> {
    fn line(&self, source: String, rows: u32, cols: u32) -> Line {
        Line { source, rows, cols, row_order: RowOrder::AsIs }
    }

    fn vocab_rows(&mut self, name: &str, source: &str) {
        let line = self.line(format!("{source}.weight"), self.dense.vocab, self.dense.hidden);
        self.tensors.add(name.into(), None, TensorCut::VocabRows, vec![line]);
    }

    /// Adds a run-time tensor of a layer; each part is a role, its rows and columns.
    fn add(&mut self, layer: usize, name: &str, cut: TensorCut, parts: &[(TensorRole, u32, u32)]) {
        let kind = if name.ends_with(".bias") { "bias" } else { "weight" };
        let lines = parts.iter().map(|(role, rows, cols)| Line {
            row_order: self.names.row_order(*role, self.dense.gqa.head_dim),
            ..self.line(self.names.of(layer, *role, kind), *rows, *cols)
        });
        let lines = lines.collect();
        self.tensors.add(format!("layers.{layer}.{name}"), Some(layer), cut, lines);
    }

    fn attention(&mut self, layer: usize) {
        let (hidden, features, gqa) = (self.dense.hidden, self.dense.features, self.dense.gqa);
        // No overflow: the numbers were checked.
        let (q, kv) = (gqa.heads * gqa.head_dim, gqa.kv_heads * gqa.head_dim);
        let qkv =
            |cols| [(TensorRole::Q, q, cols), (TensorRole::K, kv, cols), (TensorRole::V, kv, cols)];
        self.add(layer, "attn.norm", TensorCut::Replicated, &[(TensorRole::AttnNorm, 1, hidden)]);
        self.add(layer, "attn.qkv", TensorCut::QkvHeads, &qkv(hidden));
        if features.qkv_bias {
            self.add(layer, "attn.qkv.bias", TensorCut::QkvHeads, &qkv(1));
        }
        if features.qk_norm {
            let norm = |role| [(role, 1, gqa.head_dim)];
            self.add(layer, "attn.q_norm", TensorCut::Replicated, &norm(TensorRole::QNorm));
            self.add(layer, "attn.k_norm", TensorCut::Replicated, &norm(TensorRole::KNorm));
        }
        self.add(layer, "attn.out", TensorCut::HeadColumns, &[(TensorRole::Out, hidden, q)]);
        if features.out_bias {
            self.add(
                layer,
                "attn.out.bias",
                TensorCut::Replicated,
                &[(TensorRole::Out, hidden, 1)],
            );
        }
    }

    fn ffn(&mut self, layer: usize) {
        let (hidden, inner) = (self.dense.hidden, self.dense.inner);
        let gate_up = |cols| [(TensorRole::Gate, inner, cols), (TensorRole::Up, inner, cols)];
        self.add(layer, "ffn.norm", TensorCut::Replicated, &[(TensorRole::FfnNorm, 1, hidden)]);
        self.add(layer, "ffn.gate_up", TensorCut::FfnRows, &gate_up(hidden));
        if self.dense.features.mlp_bias {
            self.add(layer, "ffn.gate_up.bias", TensorCut::FfnRows, &gate_up(1));
        }
        self.add(layer, "ffn.down", TensorCut::FfnColumns, &[(TensorRole::Down, hidden, inner)]);
        if self.dense.features.mlp_bias {
            self.add(
                layer,
                "ffn.down.bias",
                TensorCut::Replicated,
                &[(TensorRole::Down, hidden, 1)],
            );
        }
    }
}

/// Checks that numbers of heads fit each other.
fn check_heads(gqa: Gqa, refuse: impl Fn(String) -> Error) -> Result<Gqa, Error> {
    let Gqa { heads, kv_heads, head_dim, .. } = gqa;
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(refuse(format!("{heads} query heads cannot share {kv_heads} KV heads")));
    }
    if head_dim == 0 || !head_dim.is_multiple_of(2) {
        return Err(refuse(format!("a head width of {head_dim} cannot be rotated in pairs")));
    }
    if heads.checked_mul(head_dim).is_none() {
        return Err(refuse(format!("{heads} heads of {head_dim} are too many")));
    }
    Ok(gqa)
}

/// Which positions each layer's cache keeps. Refuses more layers than there are tensors.
fn kv_kinds(
    layers: u32,
    window: Option<Window>,
    weight_map: &WeightMap,
    refuse: impl Fn(String) -> Error,
) -> Result<Vec<KvKind>, Error> {
    if !weight_map.may_hold(layers as usize) {
        return Err(refuse(format!("{layers} layers, but fewer tensors than that")));
    }
    let kind = |layer| match window {
        Some(window) if layer >= window.first_layer => KvKind::Window(window.positions),
        _ => KvKind::Full,
    };
    Ok((0..layers).map(kind).collect())
}

/// Epsilon of a norm, which must be at least 0 and below 1.
#[expect(clippy::cast_possible_truncation, reason = "single precision is what it is used in")]
fn norm_eps(key: &str, eps: f64, refuse: impl Fn(String) -> Error) -> Result<f32, Error> {
    if (0.0..1.0).contains(&eps) { Ok(eps as f32) } else { Err(refuse(format!("{key} is {eps}"))) }
}

fn mismatch(path: &Path) -> impl Fn(String) -> Error {
    move |cause| Error::new(ErrorKind::Mismatch, cause).file(path)
}

//! A rank's model: the spec's layers with the handles of their loaded weights.
//!
//! Loads every tensor in the spec's order, a rank's slice of each. Knows names, not arithmetic.

use std::collections::BTreeMap;

use binfer_shard::spec::{Ffn, Gqa, KvKind, Mixer};
use binfer_shard::{Checkpoint, LocalTensor, ModelSpec, RankLayout};

use crate::backend::{Backend, BackendError, Weight};
use crate::layers::glu::Glu;
use crate::layers::gqa::GqaLayer;

/// Everything that the decoder loop needs.
#[derive(Debug)]
pub struct Model {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Rows of the whole embedding.
    pub vocab: usize,
    /// Epsilon of every norm.
    pub norm_eps: f32,
    /// The embedding table, this rank's rows.
    pub embed: Weight,
    /// Token id of the first row of embedding and head.
    pub first_token: usize,
    /// Decoder layers.
    pub layers: Vec<Layer>,
    /// Scale of the final norm.
    pub final_norm: Weight,
    /// Weight of the head, this rank's rows.
    pub head: Weight,
}

/// One decoder layer.
#[derive(Debug)]
pub struct Layer {
    /// Mixes positions.
    pub mixer: GqaLayer,
    /// Works at each position.
    pub ffn: Glu,
}

impl Model {
    /// Settles what follows from the longest sequence: rope scaling of some kinds.
    pub fn limit_positions(&mut self, positions_max: u32) {
        for layer in &mut self.layers {
            let rope = &mut layer.mixer.rope;
            rope.scaling = rope.scaling.for_sequences_of(positions_max);
        }
    }
}

/// Makes a rank's weights up, for measurements; `done` hears of bytes made so far.
pub fn invent(
    source: &Checkpoint,
    layout: &RankLayout,
    backend: &mut dyn Backend,
    mut done: impl FnMut(u64),
) -> Result<Model, BackendError> {
    let tensors = source.local_tensors(layout)?;
    let weights = backend.invent(&tensors, &mut done)?;
    assemble(source.spec(), layout, &named(&tensors, weights))
}

/// Reads a rank's weights into `backend`; `done` hears of bytes read so far.
pub fn load(
    source: &Checkpoint,
    layout: &RankLayout,
    backend: &mut dyn Backend,
    mut done: impl FnMut(u64),
) -> Result<Model, BackendError> {
    let tensors = source.local_tensors(layout)?;
    let weights = backend.load(source, &tensors, &mut done)?;
    assemble(source.spec(), layout, &named(&tensors, weights))
}

fn named(tensors: &[LocalTensor], weights: Vec<Weight>) -> BTreeMap<String, Weight> {
    tensors.iter().map(|tensor| tensor.name.clone()).zip(weights).collect()
}

fn assemble(
    spec: &ModelSpec,
    layout: &RankLayout,
    weights: &BTreeMap<String, Weight>,
) -> Result<Model, BackendError> {
    let weight = |name: &str| required(weights, name);
    let layers = (0..spec.layers.len())
        .map(|index| assemble_layer(spec, layout, index, weights))
        .collect::<Result<_, _>>()?;
    Ok(Model {
        hidden: spec.hidden as usize,
        vocab: spec.vocab as usize,
        norm_eps: spec.norm_eps,
        embed: weight("embed")?,
        first_token: layout.vocab.start as usize,
        layers,
        final_norm: weight("final.norm")?,
        head: weight(spec.head_tensor())?,
    })
}

fn required(weights: &BTreeMap<String, Weight>, name: &str) -> Result<Weight, BackendError> {
    weights.get(name).copied().ok_or_else(|| BackendError::Args {
        operation: "load",
        cause: format!("the model's description has no tensor {name}"),
    })
}

fn assemble_layer(
    spec: &ModelSpec,
    layout: &RankLayout,
    index: usize,
    weights: &BTreeMap<String, Weight>,
) -> Result<Layer, BackendError> {
    let layer = &spec.layers[index];
    let of = |name: &str| required(weights, &format!("layers.{index}.{name}"));
    let optional = |name: &str| weights.get(&format!("layers.{index}.{name}")).copied();
    let Mixer::Gqa(Gqa { head_dim, rope, .. }) = layer.mixer;
    let Ffn::Glu { act, .. } = layer.ffn;
    Ok(Layer {
        mixer: GqaLayer {
            layer: index,
            kv_group: layer.kv_group,
            heads: layout.q_heads.len(),
            kv_heads: layout.kv_heads.len(),
            head_dim: head_dim as usize,
            rope,
            window: match spec.kv_groups[layer.kv_group].kind {
                KvKind::Window(window) => Some(window),
                KvKind::Full | KvKind::Latent(_) => None,
            },
            norm: of("attn.norm")?,
            qkv: of("attn.qkv")?,
            qkv_bias: optional("attn.qkv.bias"),
            q_norm: optional("attn.q_norm"),
            k_norm: optional("attn.k_norm"),
            sinks: optional("attn.sinks"),
            out: of("attn.out")?,
            out_bias: optional("attn.out.bias"),
        },
        ffn: Glu {
            layer: index,
            inner: layout.ffn.len(),
            act,
            norm: of("ffn.norm")?,
            gate_up: of("ffn.gate_up")?,
            gate_up_bias: optional("ffn.gate_up.bias"),
            down: of("ffn.down")?,
            down_bias: optional("ffn.down.bias"),
        },
    })
}

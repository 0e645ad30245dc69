//! A rank's model: the spec's layers with the handles of their loaded weights.
//!
//! Knows names of tensors, and no arithmetic. Tensors are loaded by the device.

use std::collections::BTreeMap;

use binfer_shard::layout::LayerLayout;
use binfer_shard::spec::{Ffn, LayerSpec, Mixer};
use binfer_shard::{LocalTensor, ModelSpec, RankLayout};

use crate::backend::{BackendError, Weight};
use crate::layers::glu::GluLayer;
use crate::layers::gqa::GqaLayer;
use crate::layers::mla::{MlaLayer, QueryWeights};
use crate::layers::moe::{MoeLayer, SharedExpert};
use crate::layers::{AttentionLayer, FfnLayer, Layer};

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

impl Model {
    /// Fixes what follows from the longest sequence: some kinds of rope scaling.
    pub fn limit_positions(&mut self, positions_max: u32) {
        for layer in &mut self.layers {
            layer.attention.limit_positions(positions_max);
        }
    }
}

/// A rank's model out of its tensors and their handles, which are in the same order.
pub fn assemble(
    spec: &ModelSpec,
    layout: &RankLayout,
    tensors: &[LocalTensor],
    weights: &[Weight],
) -> Result<Model, BackendError> {
    let names = tensors.iter().map(|tensor| tensor.name.clone());
    let weights: &BTreeMap<String, Weight> = &names.zip(weights.iter().copied()).collect();
    let weight = |name: &str| required(weights, name);
    let layers = spec.layers.iter().zip(layout.layers()).enumerate();
    let layers = layers.map(|(index, (layer, held))| {
        let parts = LayerParts { spec, layer, index, held, weights };
        Ok(Layer { attention: parts.attention()?, ffn: parts.ffn()? })
    });
    Ok(Model {
        hidden: spec.hidden as usize,
        vocab: spec.vocab as usize,
        norm_eps: spec.norm_eps,
        embed: weight("embed")?,
        first_token: layout.vocab.start as usize,
        layers: layers.collect::<Result<_, BackendError>>()?,
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

/// What a layer is assembled from.
struct LayerParts<'a> {
    spec: &'a ModelSpec,
    layer: &'a LayerSpec,
    index: usize,
    /// This rank's share of the layer.
    held: &'a LayerLayout,
    weights: &'a BTreeMap<String, Weight>,
}

impl LayerParts<'_> {
    fn required(&self, name: &str) -> Result<Weight, BackendError> {
        required(self.weights, &format!("layers.{}.{name}", self.index))
    }

    fn optional(&self, name: &str) -> Option<Weight> {
        self.weights.get(&format!("layers.{}.{name}", self.index)).copied()
    }

    fn attention(&self) -> Result<AttentionLayer, BackendError> {
        Ok(match self.layer.mixer {
            Mixer::Gqa(gqa) => AttentionLayer::Gqa(GqaLayer {
                layer: self.index,
                kv_group: self.layer.kv_group,
                heads: self.held.heads.q_heads.len(),
                kv_heads: self.held.heads.kv_heads.len(),
                head_dim: gqa.head_dim as usize,
                rope: gqa.rope,
                window: self.spec.kv_groups[self.layer.kv_group].kind.window(),
                norm: self.required("attn.norm")?,
                qkv: self.required("attn.qkv")?,
                qkv_bias: self.optional("attn.qkv.bias"),
                q_norm: self.optional("attn.q_norm"),
                k_norm: self.optional("attn.k_norm"),
                sinks: self.optional("attn.sinks"),
                out: self.required("attn.out")?,
                out_bias: self.optional("attn.out.bias"),
            }),
            Mixer::Mla(mla) => AttentionLayer::Mla(MlaLayer {
                layer: self.index,
                kv_group: self.layer.kv_group,
                heads: self.held.heads.q_heads.len(),
                dims: mla.dims,
                rope: mla.rope,
                scale: mla.scale,
                norm: self.required("attn.norm")?,
                queries: self.queries(mla.q_rank)?,
                kv_a: self.required("attn.kv_a")?,
                kv_a_bias: self.optional("attn.kv_a.bias"),
                kv_a_norm: self.required("attn.kv_a_norm")?,
                k_b: self.required("attn.k_b")?,
                v_b: self.required("attn.v_b")?,
                out: self.required("attn.out")?,
                out_bias: self.optional("attn.out.bias"),
            }),
        })
    }

    fn queries(&self, rank: Option<u32>) -> Result<QueryWeights, BackendError> {
        let Some(rank) = rank else { return Ok(QueryWeights::Whole(self.required("attn.q")?)) };
        Ok(QueryWeights::LowRank {
            a: self.required("attn.q_a")?,
            a_bias: self.optional("attn.q_a.bias"),
            norm: self.required("attn.q_a_norm")?,
            b: self.required("attn.q_b")?,
            rank: rank as usize,
        })
    }

    fn ffn(&self) -> Result<FfnLayer, BackendError> {
        Ok(match self.layer.ffn {
            Ffn::Glu { act, .. } => FfnLayer::Glu(GluLayer {
                layer: self.index,
                inner: self.held.ffn.columns.len(),
                act,
                norm: self.required("ffn.norm")?,
                gate_up: self.required("ffn.gate_up")?,
                gate_up_bias: self.optional("ffn.gate_up.bias"),
                down: self.required("ffn.down")?,
                down_bias: self.optional("ffn.down.bias"),
            }),
            Ffn::Moe(moe) => FfnLayer::Moe(MoeLayer {
                layer: self.index,
                experts: moe.experts as usize,
                routing: moe.routing,
                first: self.held.ffn.experts.start as usize,
                count: self.held.ffn.experts.len(),
                inner: moe.inner as usize,
                act: moe.act,
                norm: self.required("ffn.norm")?,
                router: self.required("ffn.router")?,
                router_bias: self.optional("ffn.router.bias"),
                correction: self.optional("ffn.router.correction"),
                gate_up: self.required("ffn.experts.gate_up")?,
                gate_up_bias: self.optional("ffn.experts.gate_up.bias"),
                down: self.required("ffn.experts.down")?,
                down_bias: self.optional("ffn.experts.down.bias"),
                shared: moe.shared_inner.map(|_| self.shared()).transpose()?,
            }),
        })
    }

    fn shared(&self) -> Result<SharedExpert, BackendError> {
        Ok(SharedExpert {
            inner: self.held.ffn.columns.len(),
            gate_up: self.required("ffn.shared.gate_up")?,
            down: self.required("ffn.shared.down")?,
            gate: self.optional("ffn.shared.gate"),
        })
    }
}

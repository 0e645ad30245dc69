//! The tensors of a decoder in load order, under the names of its container.

use super::Decoder;
use super::names::{Names, TensorRole, latent_row_order};
use super::tensors::{Line, Tensors};
use crate::spec::{Ffn, Gqa, Mixer, Mla, Moe, RowOrder, TensorCut};

/// A tensor of the checkpoint: its role, rows and columns.
type Part = (TensorRole, u32, u32);

pub(super) struct TensorTable<'a> {
    pub(super) decoder: &'a Decoder,
    pub(super) names: &'a Names,
    pub(super) tensors: Tensors<'a>,
}

impl TensorTable<'_> {
    pub(super) fn vocab_rows(&mut self, name: &str, source: &str) {
        let (rows, cols) = (self.decoder.vocab, self.decoder.hidden);
        let line = self.unquantised(format!("{source}.weight"), rows, cols);
        self.tensors.add(name.into(), None, TensorCut::VocabRows, vec![line]);
    }

    pub(super) fn final_norm(&mut self) {
        let source = format!("{}.weight", self.names.final_norm);
        let norm = self.unquantised(source, 1, self.decoder.hidden);
        self.tensors.add("final.norm".into(), None, TensorCut::Replicated, vec![norm]);
    }

    /// A tensor that belongs to no layer.
    fn unquantised(&self, source: String, rows: u32, cols: u32) -> Line {
        let assumed = self.tensors.assumed_dtype();
        Line { source, rows, cols, row_order: RowOrder::AsIs, assumed }
    }

    /// A tensor of a layer.
    fn line(&self, source: String, (role, rows, cols): Part, kind: &str) -> Line {
        let (row_order, plain) = (self.row_order(role), self.tensors.assumed_dtype());
        let quantisation = self.decoder.quantisation;
        let assumed = if kind == "bias" { plain } else { role.assumed(plain, quantisation) };
        Line { source, rows, cols, row_order, assumed }
    }

    /// Adds a run-time tensor of a layer.
    fn add(&mut self, layer: usize, name: &str, cut: TensorCut, parts: &[Part]) {
        let kind = kind_of(name);
        let line = |part: &Part| self.line(self.names.of(layer, part.0, kind), *part, kind);
        let lines = parts.iter().map(line).collect();
        self.tensors.add(format!("layers.{layer}.{name}"), Some(layer), cut, lines);
    }

    /// Adds a run-time tensor of all experts of a layer, which each have these parts.
    fn add_experts(&mut self, layer: usize, name: &str, experts: u32, parts: &[Part]) {
        let kind = kind_of(name);
        let line = |expert, part: &Part| {
            self.line(self.names.expert(layer, expert, part.0, kind), *part, kind)
        };
        let lines = (0..experts).flat_map(|expert| parts.iter().map(move |part| (expert, part)));
        let lines = lines.map(|(expert, part)| line(expert, part)).collect();
        let each = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        let name = format!("layers.{layer}.{name}");
        self.tensors.add(name, Some(layer), TensorCut::Experts(each), lines);
    }

    fn row_order(&self, role: TensorRole) -> RowOrder {
        match &self.decoder.mixer {
            Mixer::Gqa(gqa) => self.names.row_order(role, gqa.head_dim),
            Mixer::Mla(mla) if self.decoder.features.interleaved_rope => {
                latent_row_order(role, mla)
            }
            Mixer::Mla(_) => RowOrder::AsIs,
        }
    }

    pub(super) fn layer(&mut self, layer: usize) {
        let hidden = self.decoder.hidden;
        self.add(layer, "attn.norm", TensorCut::Replicated, &[(TensorRole::AttnNorm, 1, hidden)]);
        match self.decoder.mixer {
            Mixer::Gqa(gqa) => self.grouped_query(layer, &gqa),
            Mixer::Mla(mla) => self.latent(layer, &mla),
        }
        self.add(layer, "ffn.norm", TensorCut::Replicated, &[(TensorRole::FfnNorm, 1, hidden)]);
        match self.decoder.ffns[layer] {
            Ffn::Glu { inner, .. } => self.glu(layer, inner),
            Ffn::Moe(moe) => self.mixture(layer, &moe),
        }
    }

    fn grouped_query(&mut self, layer: usize, gqa: &Gqa) {
        let (hidden, features) = (self.decoder.hidden, self.decoder.features);
        // No overflow: the numbers were checked.
        let (q, kv) = (gqa.heads * gqa.head_dim, gqa.kv_heads * gqa.head_dim);
        let qkv =
            |cols| [(TensorRole::Q, q, cols), (TensorRole::K, kv, cols), (TensorRole::V, kv, cols)];
        self.add(layer, "attn.qkv", TensorCut::QkvHeads, &qkv(hidden));
        if features.qkv_bias {
            self.add(layer, "attn.qkv.bias", TensorCut::QkvHeads, &qkv(1));
        }
        if features.qk_norm {
            let norm = |role| [(role, 1, gqa.head_dim)];
            self.add(layer, "attn.q_norm", TensorCut::Replicated, &norm(TensorRole::QNorm));
            self.add(layer, "attn.k_norm", TensorCut::Replicated, &norm(TensorRole::KNorm));
        }
        if features.sinks {
            let sinks = [(TensorRole::Sinks, gqa.heads, 1)];
            self.add(layer, "attn.sinks", TensorCut::HeadRows(1), &sinks);
        }
        self.attn_out(layer, q);
    }

    fn attn_out(&mut self, layer: usize, inputs: u32) {
        let out = |cols| [(TensorRole::Out, self.decoder.hidden, cols)];
        self.add(layer, "attn.out", TensorCut::HeadColumns, &out(inputs));
        if self.decoder.features.out_bias {
            self.add(layer, "attn.out.bias", TensorCut::Replicated, &out(1));
        }
    }

    fn latent(&mut self, layer: usize, mla: &Mla) {
        let (hidden, bias) = (self.decoder.hidden, self.decoder.features.qkv_bias);
        let query_rows = TensorCut::HeadRows(mla.query_dim());
        let queries = mla.heads * mla.query_dim();
        if let Some(rank) = mla.q_rank {
            let a = |cols| [(TensorRole::QA, rank, cols)];
            self.add(layer, "attn.q_a", TensorCut::Replicated, &a(hidden));
            if bias {
                self.add(layer, "attn.q_a.bias", TensorCut::Replicated, &a(1));
            }
            let norm = [(TensorRole::QANorm, 1, rank)];
            self.add(layer, "attn.q_a_norm", TensorCut::Replicated, &norm);
            self.add(layer, "attn.q_b", query_rows, &[(TensorRole::QB, queries, rank)]);
        } else {
            self.add(layer, "attn.q", query_rows, &[(TensorRole::Q, queries, hidden)]);
        }
        let kv_a = |cols| [(TensorRole::KvA, mla.cached_dim(), cols)];
        self.add(layer, "attn.kv_a", TensorCut::Replicated, &kv_a(hidden));
        if bias {
            self.add(layer, "attn.kv_a.bias", TensorCut::Replicated, &kv_a(1));
        }
        let dims = mla.dims;
        let norm = [(TensorRole::KvANorm, 1, dims.latent)];
        self.add(layer, "attn.kv_a_norm", TensorCut::Replicated, &norm);
        let k_b = [(TensorRole::KB, mla.heads * dims.latent, dims.nope)];
        self.add(layer, "attn.k_b", TensorCut::HeadRows(dims.latent), &k_b);
        let v_b = [(TensorRole::VB, mla.heads * dims.value, dims.latent)];
        self.add(layer, "attn.v_b", TensorCut::HeadRows(dims.value), &v_b);
        self.attn_out(layer, mla.heads * dims.value);
    }

    fn glu(&mut self, layer: usize, inner: u32) {
        let (hidden, bias) = (self.decoder.hidden, self.decoder.features.mlp_bias);
        let gate_up = |cols| [(TensorRole::Gate, inner, cols), (TensorRole::Up, inner, cols)];
        self.add(layer, "ffn.gate_up", TensorCut::FfnRows, &gate_up(hidden));
        if bias {
            self.add(layer, "ffn.gate_up.bias", TensorCut::FfnRows, &gate_up(1));
        }
        let down = |cols| [(TensorRole::Down, hidden, cols)];
        self.add(layer, "ffn.down", TensorCut::FfnColumns, &down(inner));
        if bias {
            self.add(layer, "ffn.down.bias", TensorCut::Replicated, &down(1));
        }
    }

    fn mixture(&mut self, layer: usize, moe: &Moe) {
        let (hidden, features, inner) =
            (self.decoder.hidden, self.decoder.features.mixture, moe.inner);
        let router = |cols| [(TensorRole::Router, moe.experts, cols)];
        self.add(layer, "ffn.router", TensorCut::Replicated, &router(hidden));
        if features.router_bias {
            self.add(layer, "ffn.router.bias", TensorCut::Replicated, &router(1));
        }
        if features.correction {
            let correction = [(TensorRole::Correction, moe.experts, 1)];
            self.add(layer, "ffn.router.correction", TensorCut::Replicated, &correction);
        }
        let gate_up =
            |cols| [(TensorRole::ExpertGate, inner, cols), (TensorRole::ExpertUp, inner, cols)];
        self.add_experts(layer, "ffn.experts.gate_up", moe.experts, &gate_up(hidden));
        if features.expert_bias {
            self.add_experts(layer, "ffn.experts.gate_up.bias", moe.experts, &gate_up(1));
        }
        let down = |cols| [(TensorRole::ExpertDown, hidden, cols)];
        self.add_experts(layer, "ffn.experts.down", moe.experts, &down(inner));
        if features.expert_bias {
            self.add_experts(layer, "ffn.experts.down.bias", moe.experts, &down(1));
        }
        let Some(inner) = moe.shared_inner else { return };
        let gate_up =
            [(TensorRole::SharedGate, inner, hidden), (TensorRole::SharedUp, inner, hidden)];
        self.add(layer, "ffn.shared.gate_up", TensorCut::FfnRows, &gate_up);
        let down = [(TensorRole::SharedDown, hidden, inner)];
        self.add(layer, "ffn.shared.down", TensorCut::FfnColumns, &down);
        if features.shared_weight {
            let gate = [(TensorRole::SharedWeight, 1, hidden)];
            self.add(layer, "ffn.shared.gate", TensorCut::Replicated, &gate);
        }
    }
}

/// The ending of the checkpoint's names.
fn kind_of(name: &str) -> &'static str {
    if name.ends_with(".bias") { "bias" } else { "weight" }
}

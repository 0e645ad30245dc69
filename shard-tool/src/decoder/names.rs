//! What containers call the tensors of a decoder.

use super::rope_freqs;
use crate::forms::FusedExperts;
use crate::spec::{Mla, RowOrder};

/// What a tensor of a layer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TensorRole {
    AttnNorm,
    Q,
    K,
    V,
    QNorm,
    KNorm,
    Sinks,
    /// The first of two products that make the queries of latent attention.
    QA,
    QANorm,
    QB,
    /// What makes the latent vector and the rotated key.
    KvA,
    KvANorm,
    /// Keys and values of latent attention in one matrix.
    KvB,
    KB,
    VB,
    Out,
    FfnNorm,
    Gate,
    Up,
    Down,
    Router,
    /// What is added to the router's scores for the choice alone.
    Correction,
    ExpertGate,
    ExpertUp,
    ExpertDown,
    SharedGate,
    SharedUp,
    SharedDown,
    /// What weighs the shared expert.
    SharedWeight,
}

/// Names without their ending `.weight` or `.bias`.
#[derive(Clone, Copy)]
pub(crate) struct Names {
    pub(super) embed: &'static str,
    pub(super) final_norm: &'static str,
    pub(super) head: &'static str,
    /// What stands before the number of a layer.
    pub(super) layers: &'static str,
    /// The name of a layer's tensor. `{}` stands for the number of an expert.
    pub(crate) of: fn(TensorRole) -> &'static str,
    /// Tensors that are read as settings.
    pub(super) settings_tensors: &'static [&'static str],
    /// Whether rows of q and k are in llama.cpp's order.
    pub(super) interleaved: bool,
    /// How experts are stored where they are not stored one by one.
    pub(super) fused: FusedExperts,
}

impl Names {
    /// The same, with other names of a layer's tensors.
    pub(crate) const fn with(self, of: fn(TensorRole) -> &'static str) -> Self {
        Self { of, ..self }
    }

    /// The same, with experts fused in another form.
    pub(crate) const fn fused(self, fused: FusedExperts) -> Self {
        Self { fused, ..self }
    }

    /// Name in the checkpoint; `kind` is `weight` or `bias`. Some tensors have neither ending.
    pub(super) fn of(&self, layer: usize, role: TensorRole, kind: &str) -> String {
        let stem = (self.of)(role);
        if matches!(role, TensorRole::Sinks | TensorRole::Correction) {
            return format!("{}.{layer}.{stem}", self.layers);
        }
        format!("{}.{layer}.{stem}.{kind}", self.layers)
    }

    /// Name of an expert's tensor.
    pub(super) fn expert(&self, layer: usize, expert: u32, role: TensorRole, kind: &str) -> String {
        self.of(layer, role, kind).replacen("{}", &expert.to_string(), 1)
    }

    /// In which order the checkpoint has the rows of grouped-query attention.
    pub(super) fn row_order(&self, role: TensorRole, head_dim: u32) -> RowOrder {
        if self.interleaved && matches!(role, TensorRole::Q | TensorRole::K) {
            return RowOrder::LlamaCppInterleaved { head_dim };
        }
        RowOrder::AsIs
    }
}

/// In which order a checkpoint with interleaved rope has the rows of latent attention.
pub(super) fn latent_row_order(role: TensorRole, mla: &Mla) -> RowOrder {
    let tail = mla.rope.dims;
    match role {
        TensorRole::Q | TensorRole::QB => {
            RowOrder::InterleavedTail { head_dim: mla.query_dim(), tail }
        }
        TensorRole::KvA => RowOrder::InterleavedTail { head_dim: mla.cached_dim(), tail },
        _ => RowOrder::AsIs,
    }
}

/// The names that transformers gives.
pub(crate) const HUGGING_FACE: Names = Names {
    embed: "model.embed_tokens",
    final_norm: "model.norm",
    head: "lm_head",
    layers: "model.layers",
    of: |role| match role {
        TensorRole::AttnNorm => "input_layernorm",
        TensorRole::Q => "self_attn.q_proj",
        TensorRole::K => "self_attn.k_proj",
        TensorRole::V => "self_attn.v_proj",
        TensorRole::QNorm => "self_attn.q_norm",
        TensorRole::KNorm => "self_attn.k_norm",
        TensorRole::Sinks => "self_attn.sinks",
        TensorRole::QA => "self_attn.q_a_proj",
        TensorRole::QANorm => "self_attn.q_a_layernorm",
        TensorRole::QB => "self_attn.q_b_proj",
        TensorRole::KvA => "self_attn.kv_a_proj_with_mqa",
        TensorRole::KvANorm => "self_attn.kv_a_layernorm",
        TensorRole::KvB => "self_attn.kv_b_proj",
        TensorRole::KB => "self_attn.kv_b_proj.k",
        TensorRole::VB => "self_attn.kv_b_proj.v",
        TensorRole::Out => "self_attn.o_proj",
        TensorRole::FfnNorm => "post_attention_layernorm",
        TensorRole::Gate => "mlp.gate_proj",
        TensorRole::Up => "mlp.up_proj",
        TensorRole::Down => "mlp.down_proj",
        TensorRole::Router => "mlp.gate",
        TensorRole::Correction => "mlp.gate.e_score_correction_bias",
        TensorRole::ExpertGate => "mlp.experts.{}.gate_proj",
        TensorRole::ExpertUp => "mlp.experts.{}.up_proj",
        TensorRole::ExpertDown => "mlp.experts.{}.down_proj",
        TensorRole::SharedGate => "mlp.shared_expert.gate_proj",
        TensorRole::SharedUp => "mlp.shared_expert.up_proj",
        TensorRole::SharedDown => "mlp.shared_expert.down_proj",
        TensorRole::SharedWeight => "mlp.shared_expert_gate",
    },
    settings_tensors: &[],
    interleaved: false,
    fused: FusedExperts::GateThenUp,
};

/// The names that llama.cpp gives.
pub(crate) const LLAMA_CPP: Names = Names {
    embed: "token_embd",
    final_norm: "output_norm",
    head: "output",
    layers: "blk",
    of: |role| match role {
        TensorRole::AttnNorm => "attn_norm",
        TensorRole::Q => "attn_q",
        TensorRole::K => "attn_k",
        TensorRole::V => "attn_v",
        TensorRole::QNorm => "attn_q_norm",
        TensorRole::KNorm => "attn_k_norm",
        TensorRole::Sinks => "attn_sinks.weight",
        TensorRole::QA => "attn_q_a",
        TensorRole::QANorm => "attn_q_a_norm",
        TensorRole::QB => "attn_q_b",
        TensorRole::KvA => "attn_kv_a_mqa",
        TensorRole::KvANorm => "attn_kv_a_norm",
        TensorRole::KvB => "attn_kv_b",
        TensorRole::KB => "attn_k_b",
        TensorRole::VB => "attn_v_b",
        TensorRole::Out => "attn_output",
        TensorRole::FfnNorm => "ffn_norm",
        TensorRole::Gate => "ffn_gate",
        TensorRole::Up => "ffn_up",
        TensorRole::Down => "ffn_down",
        TensorRole::Router => "ffn_gate_inp",
        TensorRole::Correction => "exp_probs_b.bias",
        TensorRole::ExpertGate => "ffn_gate_exps.{}",
        TensorRole::ExpertUp => "ffn_up_exps.{}",
        TensorRole::ExpertDown => "ffn_down_exps.{}",
        TensorRole::SharedGate => "ffn_gate_shexp",
        TensorRole::SharedUp => "ffn_up_shexp",
        TensorRole::SharedDown => "ffn_down_shexp",
        TensorRole::SharedWeight => "ffn_gate_inp_shexp",
    },
    settings_tensors: &[rope_freqs::NAME],
    interleaved: false,
    fused: FusedExperts::Stacked,
};

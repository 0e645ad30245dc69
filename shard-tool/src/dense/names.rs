//! What containers call the tensors of a dense decoder.

use super::rope_freqs;
use crate::spec::RowOrder;

/// What a tensor of a layer is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TensorRole {
    AttnNorm,
    Q,
    K,
    V,
    QNorm,
    KNorm,
    Out,
    FfnNorm,
    Gate,
    Up,
    Down,
}

/// Names without their ending `.weight` or `.bias`.
pub(super) struct Names {
    pub(super) embed: &'static str,
    pub(super) final_norm: &'static str,
    pub(super) head: &'static str,
    /// What stands before the number of a layer.
    pub(super) layers: &'static str,
    pub(super) of: fn(TensorRole) -> &'static str,
    /// Tensors that are read as settings.
    pub(super) settings_tensors: &'static [&'static str],
    /// Whether rows of q and k are in llama.cpp's order.
    pub(super) interleaved: bool,
}

impl Names {
    /// Name in the checkpoint; `kind` is `weight` or `bias`.
    pub(super) fn of(&self, layer: usize, role: TensorRole, kind: &str) -> String {
        format!("{}.{layer}.{}.{kind}", self.layers, (self.of)(role))
    }

    /// In which order the checkpoint has the rows.
    pub(super) fn row_order(&self, role: TensorRole, head_dim: u32) -> RowOrder {
        if self.interleaved && matches!(role, TensorRole::Q | TensorRole::K) {
            return RowOrder::LlamaCppInterleaved { head_dim };
        }
        RowOrder::AsIs
    }
}

/// The names that transformers gives.
pub(super) const HUGGING_FACE: Names = Names {
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
        TensorRole::Out => "self_attn.o_proj",
        TensorRole::FfnNorm => "post_attention_layernorm",
        TensorRole::Gate => "mlp.gate_proj",
        TensorRole::Up => "mlp.up_proj",
        TensorRole::Down => "mlp.down_proj",
    },
    settings_tensors: &[],
    interleaved: false,
};

/// The names that llama.cpp gives.
pub(super) const LLAMA_CPP: Names = Names {
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
        TensorRole::Out => "attn_output",
        TensorRole::FfnNorm => "ffn_norm",
        TensorRole::Gate => "ffn_gate",
        TensorRole::Up => "ffn_up",
        TensorRole::Down => "ffn_down",
    },
    settings_tensors: &[rope_freqs::NAME],
    interleaved: false,
};

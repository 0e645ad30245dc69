//! What containers call the tensors of a dense decoder.

use super::rope_freqs;
use crate::spec::RowOrder;

/// What a tensor of a layer does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
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
    /// Before the number of a layer.
    pub(super) layers: &'static str,
    pub(super) of: fn(Role) -> &'static str,
    /// Tensors that are read as settings.
    pub(super) besides: &'static [&'static str],
    /// Rows of q and k are in llama.cpp's order.
    pub(super) interleaved: bool,
}

impl Names {
    /// Name in the checkpoint; `kind` is `weight` or `bias`.
    pub(super) fn of(&self, layer: usize, role: Role, kind: &str) -> String {
        format!("{}.{layer}.{}.{kind}", self.layers, (self.of)(role))
    }

    /// In which order the checkpoint has the rows.
    pub(super) fn row_order(&self, role: Role, head_dim: u32) -> RowOrder {
        if self.interleaved && matches!(role, Role::Q | Role::K) {
            return RowOrder::LlamaCppInterleaved { head_dim };
        }
        RowOrder::AsIs
    }
}

/// Those of transformers.
pub(super) const HUGGING_FACE: Names = Names {
    embed: "model.embed_tokens",
    final_norm: "model.norm",
    head: "lm_head",
    layers: "model.layers",
    of: |role| match role {
        Role::AttnNorm => "input_layernorm",
        Role::Q => "self_attn.q_proj",
        Role::K => "self_attn.k_proj",
        Role::V => "self_attn.v_proj",
        Role::QNorm => "self_attn.q_norm",
        Role::KNorm => "self_attn.k_norm",
        Role::Out => "self_attn.o_proj",
        Role::FfnNorm => "post_attention_layernorm",
        Role::Gate => "mlp.gate_proj",
        Role::Up => "mlp.up_proj",
        Role::Down => "mlp.down_proj",
    },
    besides: &[],
    interleaved: false,
};

/// Those of llama.cpp.
pub(super) const LLAMA_CPP: Names = Names {
    embed: "token_embd",
    final_norm: "output_norm",
    head: "output",
    layers: "blk",
    of: |role| match role {
        Role::AttnNorm => "attn_norm",
        Role::Q => "attn_q",
        Role::K => "attn_k",
        Role::V => "attn_v",
        Role::QNorm => "attn_q_norm",
        Role::KNorm => "attn_k_norm",
        Role::Out => "attn_output",
        Role::FfnNorm => "ffn_norm",
        Role::Gate => "ffn_gate",
        Role::Up => "ffn_up",
        Role::Down => "ffn_down",
    },
    besides: &[rope_freqs::NAME],
    interleaved: false,
};

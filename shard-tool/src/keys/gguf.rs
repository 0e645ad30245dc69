//! Keys of GGUF metadata that change nothing about what a Llama or Qwen model computes.
//!
//! The list follows the keys that llama.cpp reads (`src/llama-arch.cpp`) and that its converters
//! write. Names stand without the architecture, as `attention.scale` for `llama.attention.scale`.

use super::{NoEffectAt, Reason};

/// The namespaces that belong to no architecture: descriptions, tokenizer, notes of quantisers. The
/// keys among them that matter are read elsewhere.
const FOREIGN: &[&str] =
    &["general.", "tokenizer.", "split.", "quantize.", "imatrix.", "mradermacher.", "unsloth."];

/// Whether a key belongs to a namespace that describes the file and not the model.
pub(crate) fn is_foreign(key: &str) -> bool {
    FOREIGN.iter().any(|prefix| key.starts_with(prefix))
}

pub(crate) const TABLE: &[Reason] = &[
    Reason {
        why: "a note of the converter",
        at: NoEffectAt::Any,
        keys: "rope.scaling.finetuned tensor_data_layout",
    },
    Reason {
        why: "of norms with a mean, which these models do not have",
        at: NoEffectAt::Any,
        keys: "attention.layer_norm_epsilon",
    },
    Reason {
        why: "token ids, which the text side reads",
        at: NoEffectAt::Any,
        keys: "decoder_start_token_id",
    },
    Reason {
        why: "the model lacks what it would switch on",
        at: NoEffectAt::Off,
        keys: "
            attention.clamp_kqv attention.max_alibi_bias attention.scale
            attention.shared_kv_layers attention.sliding_window attn_logit_softcapping
            embedding_scale expert_count expert_feed_forward_length expert_shared_count
            expert_used_count final_logit_softcapping interleave_moe_layer_step
            leading_dense_block_count logit_scale nextn_predict_layers pooling_type residual_scale
            rope.scaling.yarn_log_multiplier use_parallel_residual
        ",
    },
    Reason {
        why: "a factor of one, or what these models always have",
        at: NoEffectAt::One,
        keys: "
            attention.causal embedding_scale logit_scale residual_scale rope.scale_linear
            rope.scaling.attn_factor rope.scaling.yarn_attn_factor rope.scaling.yarn_ext_factor
        ",
    },
];

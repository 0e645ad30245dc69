//! Llama 2, 3, 3.1, 3.2, `SmolLM2` and whatever else calls itself llama; biases where said.

use crate::decoder::{
    AttentionKind, Defaults, Family, Features, GgufForm, GgufMixture, HUGGING_FACE, THETA_DEFAULT,
};
use crate::spec::ActivationFn;

pub(super) const FAMILY: Family = Family {
    name: "llama",
    class: "LlamaForCausalLM",
    keys: &["attention_bias", "mlp_bias"],
    defaults: Defaults { kv_heads: None, head_dim: None, positions: 2048, theta: THETA_DEFAULT },
    attention: AttentionKind::Grouped,
    features: |config| {
        let attention_bias = config.bool("attention_bias")?.unwrap_or(false);
        Ok(Features {
            qkv_bias: attention_bias,
            out_bias: attention_bias,
            mlp_bias: config.bool("mlp_bias")?.unwrap_or(false),
            ..Features::default()
        })
    },
    mixture: None,
    names: HUGGING_FACE,
    gguf: Some(GgufForm {
        interleaved: true,
        features: |weight_map| {
            let has = |name| weight_map.tensor(name).is_some();
            Features {
                qkv_bias: has("blk.0.attn_q.bias"),
                out_bias: has("blk.0.attn_output.bias"),
                mlp_bias: has("blk.0.ffn_gate.bias"),
                ..Features::default()
            }
        },
        // Mixtral is among llama there.
        mixture: Some(GgufMixture { act: ActivationFn::Silu, normalize: true }),
        ..GgufForm::plain("llama")
    }),
};

//! Qwen 3, mixtures of experts: norms of q and k heads; biases of attention where said.

use super::switched_window;
use crate::Error;
use crate::decoder::{
    AttentionKind, Defaults, Family, Features, GgufForm, GgufMixture, HUGGING_FACE, Mixture,
    MixtureForm, MixtureLayers, THETA_DEFAULT, WindowLayers,
};
use crate::hf::ConfigJson;
use crate::spec::{ActivationFn, Moe, RouterScores, Routing};

pub(super) const FAMILY: Family = Family {
    name: "qwen3_moe",
    class: "Qwen3MoeForCausalLM",
    keys: &["attention_bias", "sliding_window", "use_sliding_window", "max_window_layers"],
    defaults: Defaults {
        kv_heads: Some(4),
        head_dim: None,
        positions: 32_768,
        theta: THETA_DEFAULT,
    },
    attention: AttentionKind::Grouped,
    features: |config| {
        let attention_bias = config.bool("attention_bias")?.unwrap_or(false);
        Ok(Features {
            qkv_bias: attention_bias,
            out_bias: attention_bias,
            qk_norm: true,
            // The window is on all layers here, whatever max_window_layers says.
            window: switched_window(config, |_| WindowLayers::From(0))?,
            ..Features::default()
        })
    },
    mixture: Some(MixtureForm { keys: KEYS, read: mixture }),
    names: HUGGING_FACE,
    gguf: Some(GgufForm {
        features: |_| Features { qk_norm: true, ..Features::default() },
        mixture: Some(GgufMixture { act: ActivationFn::Silu, normalize: true }),
        ..GgufForm::plain("qwen3moe")
    }),
};

/// Keys of the mixtures, which Qwen 2 says alike. `num_local_experts` is what transformers 5 writes
/// for Qwen 3's `num_experts`.
pub(super) const KEYS: &[&str] = &[
    "num_experts",
    "num_local_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "norm_topk_prob",
    "decoder_sparse_step",
    "mlp_only_layers",
];

/// A mixture without a shared expert. Softmax over all experts; the chosen ones are weighed by
/// it.
pub(super) fn mixture(config: &ConfigJson) -> Result<Mixture, Error> {
    let routing = Routing {
        top_k: config.positive("num_experts_per_tok")?,
        scores: RouterScores::Softmax,
        normalize: config.bool("norm_topk_prob")?.unwrap_or(false),
        scale: 1.0,
        expert_groups: None,
    };
    let experts = config.u32_of_either(["num_experts", "num_local_experts"]);
    let moe = Moe {
        experts: config.above_zero("num_experts", experts)?,
        inner: config.positive("moe_intermediate_size")?,
        act: ActivationFn::Silu,
        routing,
        shared_inner: None,
    };
    let step = match config.get("decoder_sparse_step") {
        Some(_) => config.positive("decoder_sparse_step")?,
        None => 1,
    };
    let dense = config.integers("mlp_only_layers")?.unwrap_or_default();
    Ok(Mixture { moe, layers: MixtureLayers { first: 0, step, dense } })
}

//! What the mixtures of Qwen 2 and Qwen 3 say alike.

use crate::Error;
use crate::decoder::{Mixture, MixtureLayers};
use crate::hf::ConfigJson;
use crate::spec::{ActivationFn, Moe, RouterScores, Routing};

/// Keys that are read here.
pub(super) const KEYS: &[&str] = &[
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "norm_topk_prob",
    "decoder_sparse_step",
    "mlp_only_layers",
];

/// The mixture, without a shared expert. Softmax over all experts; the chosen ones are weighed by
/// it.
pub(super) fn mixture(config: &ConfigJson) -> Result<Mixture, Error> {
    let routing = Routing {
        top_k: config.positive("num_experts_per_tok")?,
        scores: RouterScores::Softmax,
        normalize: config.bool("norm_topk_prob")?.unwrap_or(false),
        scale: 1.0,
        expert_groups: None,
    };
    let moe = Moe {
        experts: config.positive("num_experts")?,
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

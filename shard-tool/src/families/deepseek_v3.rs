//! DeepSeek V3 and R1: version 2 with sigmoid routing, corrected for the choice alone.

use super::deepseek_v2::{KEYS, MixtureNumbers, NAMES, groups, only, read, scale};
use crate::Error;
use crate::decoder::{
    AttentionKind, Defaults, Family, Features, Mixture, MixtureFeatures, MixtureForm, THETA_DEFAULT,
};
use crate::hf::ConfigJson;
use crate::spec::{GroupScore, RouterScores, Routing};

pub(super) const FAMILY: Family = Family {
    name: "deepseek_v3",
    class: "DeepseekV3ForCausalLM",
    keys: &["attention_bias", "num_nextn_predict_layers", "rope_interleave"],
    defaults: Defaults { kv_heads: None, head_dim: None, positions: 4096, theta: THETA_DEFAULT },
    attention: AttentionKind::Latent,
    features: |config| {
        let bias = config.bool("attention_bias")?.unwrap_or(false);
        Ok(Features {
            qkv_bias: bias,
            out_bias: bias,
            interleaved_rope: config.bool("rope_interleave")?.unwrap_or(true),
            mixture: MixtureFeatures { correction: true, ..MixtureFeatures::default() },
            prediction_layers: config.u32("num_nextn_predict_layers")?.unwrap_or(1),
            ..Features::default()
        })
    },
    mixture: Some(MixtureForm { keys: KEYS, read: mixture }),
    names: NAMES,
    gguf: None,
};

fn mixture(config: &ConfigJson) -> Result<Mixture, Error> {
    only(config, "scoring_func", "sigmoid")?;
    only(config, "topk_method", "noaux_tc")?;
    let routing = Routing {
        top_k: config.u32("num_experts_per_tok")?.unwrap_or(8),
        scores: RouterScores::Sigmoid,
        normalize: config.bool("norm_topk_prob")?.unwrap_or(true),
        scale: scale(config, 2.5)?,
        expert_groups: Some(groups(config, GroupScore::TopTwoSum, [Some(8), Some(4)])?),
    };
    read(config, routing, &MixtureNumbers { experts: 256, shared: 1, first: 3 })
}

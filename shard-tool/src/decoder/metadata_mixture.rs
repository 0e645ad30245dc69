//! Mixtures of experts, as llama.cpp's converter writes them.

use super::family::{GgufMixture, MixtureFeatures};
use super::metadata_keys::MetadataKeys;
use super::mixture::{Mixture, MixtureLayers};
use crate::spec::{ExpertGroups, GroupScore, Moe, RouterScores, Routing};
use crate::weight_map::WeightMap;
use crate::{Error, ErrorKind};

/// The key of the number of experts.
const EXPERTS: &str = "expert_count";
/// Keys after the architecture's name that are read where there are experts.
const UNDERSTOOD: &[&str] = &[
    EXPERTS,
    "expert_feed_forward_length",
    "expert_gating_func",
    "expert_group_count",
    "expert_group_used_count",
    "expert_shared_count",
    "expert_shared_feed_forward_length",
    "expert_used_count",
    "expert_weights_norm",
    "expert_weights_scale",
    "leading_dense_block_count",
];

/// Numbers of `llama_expert_gating_func_type`.
const SOFTMAX: u32 = 1;
const SIGMOID: u32 = 2;

/// The keys that are read here: of a model without experts their number alone.
pub(super) fn understood(keys: &MetadataKeys<'_>) -> Result<&'static [&'static str], Error> {
    let experts = keys.u32(EXPERTS)?.unwrap_or(0);
    Ok(if experts > 0 { UNDERSTOOD } else { &UNDERSTOOD[..1] })
}

/// Reads the mixture, and which optional tensors it has. `None` if the model has no experts.
pub(super) fn read(
    keys: &MetadataKeys<'_>,
    form: &GgufMixture,
    weight_map: &WeightMap,
) -> Result<Option<(Mixture, MixtureFeatures)>, Error> {
    let experts = keys.u32(EXPERTS)?.unwrap_or(0);
    if experts == 0 {
        return Ok(None);
    }
    let inner = match keys.u32("expert_feed_forward_length")? {
        Some(inner) => inner,
        None => keys.positive("feed_forward_length")?,
    };
    let moe = Moe {
        experts,
        inner,
        act: form.act,
        routing: routing(keys, form)?,
        shared_inner: shared_inner(keys, inner)?,
    };
    let first = keys.u32("leading_dense_block_count")?.unwrap_or(0);
    let has = |name: &str| weight_map.tensor(&format!("blk.{first}.{name}")).is_some();
    let features = MixtureFeatures {
        router_bias: has("ffn_gate_inp.bias"),
        correction: has("exp_probs_b.bias"),
        expert_bias: has("ffn_gate_exps.bias"),
        shared_weight: has("ffn_gate_inp_shexp.weight"),
    };
    let layers = MixtureLayers { first, step: 1, dense: Vec::new() };
    Ok(Some((Mixture { moe, layers }, features)))
}

#[expect(clippy::cast_possible_truncation, reason = "single precision is what it is used in")]
fn routing(keys: &MetadataKeys<'_>, form: &GgufMixture) -> Result<Routing, Error> {
    let scores = match keys.u32("expert_gating_func")? {
        None | Some(0 | SOFTMAX) => RouterScores::Softmax,
        Some(SIGMOID) => RouterScores::Sigmoid,
        Some(other) => {
            let cause = format!("{} {other} is not supported yet", keys.key("expert_gating_func"));
            return Err(Error::new(ErrorKind::Unsupported, cause).file(keys.path));
        }
    };
    let normalize = keys.metadata.bool(&keys.key("expert_weights_norm"))?;
    // llama.cpp takes a 0 for absent.
    let scale = keys.metadata.float(&keys.key("expert_weights_scale"))?;
    let scale = scale.filter(|scale| *scale != 0.0).unwrap_or(1.0);
    let count = keys.u32("expert_group_count")?.unwrap_or(1);
    let kept = keys.u32("expert_group_used_count")?.unwrap_or(1);
    // The models that route so, as DeepSeek trained them.
    let score = match scores {
        RouterScores::Softmax => GroupScore::Max,
        RouterScores::Sigmoid => GroupScore::TopTwoSum,
    };
    Ok(Routing {
        top_k: keys.positive("expert_used_count")?,
        scores,
        normalize: normalize.unwrap_or(form.normalize),
        scale: scale as f32,
        expert_groups: (count > 1).then_some(ExpertGroups { count, kept, score }),
    })
}

/// Columns of the shared expert, which the file gives as columns or as experts of the common size.
fn shared_inner(keys: &MetadataKeys<'_>, inner: u32) -> Result<Option<u32>, Error> {
    let shared = match keys.u32("expert_shared_feed_forward_length")? {
        Some(shared) => shared,
        None => {
            let count = keys.u32("expert_shared_count")?.unwrap_or(0);
            let cause = || keys.refuse(format!("{count} shared experts of {inner} columns"));
            count.checked_mul(inner).ok_or_else(cause)?
        }
    };
    Ok(Some(shared).filter(|shared| *shared > 0))
}

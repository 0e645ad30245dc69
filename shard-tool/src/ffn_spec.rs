//! Feed-forwards: what is computed at each position by itself. A part of [`crate::spec`].

use serde::Serialize;

/// Kinds of feed-forward.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum Ffn {
    /// A gated linear unit: `down(act(gate(x)) * up(x))`.
    Glu {
        /// Outputs of gate and of up, inputs of down.
        inner: u32,
        /// The activation function of the gate.
        act: ActivationFn,
    },
    /// A mixture of experts.
    Moe(Moe),
}

impl Ffn {
    /// The mixture of experts, if it is one.
    #[must_use]
    pub fn moe(&self) -> Option<&Moe> {
        match self {
            Self::Glu { .. } => None,
            Self::Moe(moe) => Some(moe),
        }
    }
}

/// A mixture of experts: gated linear units of which a router picks a few for each token.
///
/// Its tensors: `ffn.norm`, `ffn.router`, `ffn.experts.gate_up` (expert by expert, the rows of gate
/// and then those of up) and `ffn.experts.down` (expert by expert). Where a model has them:
/// `ffn.router.bias`, `ffn.router.correction`, `ffn.experts.gate_up.bias`, `ffn.experts.down.bias`,
/// and `ffn.shared.gate_up`, `ffn.shared.down`, `ffn.shared.gate` of the shared expert.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Moe {
    /// Experts, over all ranks.
    pub experts: u32,
    /// Outputs of an expert's gate and of its up.
    pub inner: u32,
    /// The activation function of the experts.
    pub act: ActivationFn,
    /// How a token's experts are chosen and weighed.
    pub routing: Routing,
    /// Outputs of gate and of up of the shared expert, which sees every token. Where there is a
    /// tensor `ffn.shared.gate`, the sigmoid of its product with the token weighs it.
    pub shared_inner: Option<u32>,
}

/// How a router's logits become experts and their weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Routing {
    /// Experts of a token: those with the best scores, ties to the lower number. Where there is a
    /// tensor `ffn.router.correction`, it is added to the scores for the choice alone.
    pub top_k: u32,
    /// What scores are.
    pub scores: RouterScores,
    /// Whether the weights of a token's experts, which are their scores, are divided by their sum.
    pub normalize: bool,
    /// What weights are multiplied by last.
    pub scale: f32,
    /// Groups of experts that are chosen first.
    pub expert_groups: Option<ExpertGroups>,
}

/// A router's scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RouterScores {
    /// Softmax over all experts. With [`Routing::normalize`] it is softmax over the chosen ones.
    Softmax,
    /// Sigmoid of each logit.
    Sigmoid,
}

/// Groups of consecutive experts, of which the best are kept and the rest not chosen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ExpertGroups {
    /// Groups; divides the number of experts.
    pub count: u32,
    /// Groups that are kept.
    pub kept: u32,
    /// What a group's score is.
    pub score: GroupScore,
}

/// A group's score, out of its experts' scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupScore {
    /// The best one.
    Max,
    /// The sum of the two best.
    TopTwoSum,
}

/// Activation functions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum ActivationFn {
    /// `x * sigmoid(x)`.
    Silu,
    /// gpt-oss: `gate * sigmoid(1.702 * gate) * (up + 1)`, with gate clamped to at most `limit` and
    /// up to at most `limit` either way.
    ClampedSwiglu {
        /// Where both are clamped.
        limit: f32,
    },
}

impl ActivationFn {
    /// The factor within the sigmoid of [`Self::ClampedSwiglu`].
    pub const SWIGLU_ALPHA: f32 = 1.702;
}

//! Mixtures as families have them, of small sizes.

use binfer_shard::DType;
use binfer_shard::spec::{ActivationFn, ExpertGroups, GroupScore, RouterScores, Routing};

/// What a mixture of a case looks like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) hidden: usize,
    pub(super) inner: usize,
    pub(super) experts: usize,
    pub(super) routing: Routing,
    pub(super) act: ActivationFn,
    /// Of the experts' weights.
    pub(super) dtype: DType,
    pub(super) has_biases: bool,
    pub(super) has_correction: bool,
    /// Columns of the shared expert, and whether it has a gate.
    pub(super) shared: Option<(usize, bool)>,
    /// First expert of the rank, and how many it has.
    pub(super) held: (usize, usize),
}

const SOFTMAX: Routing = Routing {
    top_k: 2,
    scores: RouterScores::Softmax,
    normalize: true,
    scale: 1.0,
    expert_groups: None,
};

pub(super) const PLAIN: Kind = Kind {
    name: "mixtral",
    hidden: 72,
    inner: 40,
    experts: 8,
    routing: SOFTMAX,
    act: ActivationFn::Silu,
    dtype: DType::BF16,
    has_biases: false,
    has_correction: false,
    shared: None,
    held: (0, 8),
};

/// As families have them, of small sizes: no multiple of anything, of 8, of a tile, of blocks.
pub(super) const KINDS: [Kind; 8] = [
    PLAIN,
    Kind { name: "odd", hidden: 77, inner: 61, experts: 5, held: (0, 5), ..PLAIN },
    Kind {
        name: "qwen3",
        hidden: 128,
        inner: 96,
        experts: 128,
        held: (0, 128),
        routing: Routing { top_k: 8, ..SOFTMAX },
        ..PLAIN
    },
    Kind {
        name: "qwen2",
        experts: 60,
        held: (0, 60),
        routing: Routing { top_k: 4, normalize: false, ..SOFTMAX },
        shared: Some((104, true)),
        ..PLAIN
    },
    Kind {
        name: "gpt-oss",
        hidden: 192,
        inner: 160,
        experts: 32,
        held: (0, 32),
        routing: Routing { top_k: 4, ..SOFTMAX },
        act: ActivationFn::ClampedSwiglu { limit: 1.5 },
        dtype: DType::MXFP4,
        has_biases: true,
        ..PLAIN
    },
    Kind {
        name: "one of two ranks",
        hidden: 64,
        inner: 32,
        experts: 7,
        held: (3, 2),
        routing: Routing { top_k: 3, ..SOFTMAX },
        dtype: DType::F32,
        has_biases: true,
        ..PLAIN
    },
    Kind {
        name: "deepseek-v2",
        experts: 16,
        held: (0, 16),
        routing: Routing {
            top_k: 6,
            normalize: false,
            scale: 16.0,
            expert_groups: Some(ExpertGroups { count: 4, kept: 2, score: GroupScore::Max }),
            ..SOFTMAX
        },
        shared: Some((48, false)),
        ..PLAIN
    },
    Kind {
        name: "deepseek-v3",
        hidden: 256,
        inner: 128,
        experts: 32,
        held: (8, 24),
        routing: Routing {
            top_k: 8,
            scores: RouterScores::Sigmoid,
            normalize: true,
            scale: 2.5,
            expert_groups: Some(ExpertGroups { count: 8, kept: 4, score: GroupScore::TopTwoSum }),
        },
        dtype: DType::FP8_BLOCK,
        has_correction: true,
        shared: Some((128, false)),
        ..PLAIN
    },
];

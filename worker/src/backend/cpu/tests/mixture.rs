//! Random mixtures of experts with the weights that their oracle needs.

use binfer_shard::DType;
use binfer_shard::spec::{
    ActivationFn, ExpertGroups, GroupScore, RouterScores, Routing, TensorCut,
};

use super::{Known, Random, Rig, oracle, place};
use crate::backend::args::{ExpertsArgs, MoeArgs, RouterArgs, SharedExpertArgs, Tensor};
use crate::backend::{Backend, MemoryLayout};

const EPS: f32 = 1e-5;

/// A shape of a mixture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) hidden: usize,
    pub(super) inner: usize,
    pub(super) experts: usize,
    /// This rank's first expert, and how many it has.
    pub(super) held: (usize, usize),
    pub(super) routing: Routing,
    pub(super) act: ActivationFn,
    /// Inner columns of the shared expert, and whether it has a gate.
    pub(super) shared: Option<(usize, bool)>,
    pub(super) biases: bool,
}

pub(super) const ROUTING: Routing = Routing {
    top_k: 2,
    scores: RouterScores::Softmax,
    normalize: true,
    scale: 1.0,
    expert_groups: None,
};

impl Shape {
    pub(super) fn random(random: &mut Random) -> Self {
        let experts = [4, 6, 8, 12][random.below(4)];
        let first = random.below(experts / 2);
        let groups = ExpertGroups {
            count: 2,
            kept: 1,
            score: [GroupScore::Max, GroupScore::TopTwoSum][random.below(2)],
        };
        Self {
            hidden: [64, 128, 256][random.below(3)],
            inner: [32, 64, 128][random.below(3)],
            experts,
            held: (first, 1 + random.below(experts - first)),
            routing: Routing {
                top_k: 1 + random.below(experts / 2) as u32,
                scores: [RouterScores::Softmax, RouterScores::Sigmoid][random.below(2)],
                normalize: random.below(2) == 0,
                scale: [1.0, 2.5][random.below(2)],
                expert_groups: [None, Some(groups)][random.below(2)],
            },
            act: [ActivationFn::Silu, ActivationFn::ClampedSwiglu { limit: 2.0 }][random.below(2)],
            shared: [None, Some((40, false)), Some((24, true))][random.below(3)],
            biases: random.below(2) == 0,
        }
    }
}

/// Weights of a mixture.
pub(super) struct Mixture {
    pub(super) shape: Shape,
    norm: Known,
    pub(super) router: Known,
    router_bias: Option<Known>,
    correction: Option<Known>,
    gate_up: Known,
    gate_up_bias: Option<Known>,
    down: Known,
    down_bias: Option<Known>,
    shared: Option<(Known, Known, Option<Known>)>,
}

impl Mixture {
    /// Loads random weights.
    pub(super) fn load(rig: &mut Rig, shape: Shape) -> Self {
        let Shape { hidden, inner, experts, held: (_, count), .. } = shape;
        let norm = rig.norm(hidden);
        let router = rig.weight(&[(DType::F32, experts)], hidden, 0..hidden);
        let vector = |rig: &mut Rig, wanted: bool, len: usize| {
            wanted.then(|| rig.weight(&[(DType::F32, len)], 1, 0..1))
        };
        let router_bias = vector(rig, shape.biases, experts);
        let sigmoid = shape.routing.scores == RouterScores::Sigmoid;
        let correction = vector(rig, sigmoid, experts);
        // Gate and up of one type or of two, but the same of all experts.
        let [gate, up] = [0, 1].map(|_| rig.random.dtype(hidden));
        let apart = [(gate, inner), (up, inner)];
        let fused = [(gate, 2 * inner)];
        let (parts, each) =
            if rig.random.below(2) == 0 { (&apart[..], 2) } else { (&fused[..], 1) };
        let gate_up = rig.stack(&parts.repeat(count), hidden, TensorCut::Experts(each));
        let down = (rig.random.dtype(inner), hidden);
        let down = rig.stack(&[down].repeat(count), inner, TensorCut::Experts(1));
        let bias = |rig: &mut Rig, rows: usize| {
            let parts = [(DType::F32, rows)].repeat(count);
            shape.biases.then(|| rig.stack(&parts, 1, TensorCut::Experts(1)))
        };
        let (gate_up_bias, down_bias) = (bias(rig, 2 * inner), bias(rig, hidden));
        let shared = shape.shared.map(|(cols, has_gate)| {
            let gate_up = rig.weight(&[(DType::BF16, 2 * cols)], hidden, 0..hidden);
            let down = rig.weight(&[(DType::F16, hidden)], cols, 0..cols);
            (gate_up, down, has_gate.then(|| rig.norm(hidden)))
        });
        Self {
            shape,
            norm,
            router,
            router_bias,
            correction,
            gate_up,
            gate_up_bias,
            down,
            down_bias,
            shared,
        }
    }

    /// Arguments for so many tokens, and elements of the arena.
    pub(super) fn args(&self, tokens: usize) -> (MoeArgs, usize) {
        let Shape { hidden, inner, experts, held: (first, count), routing, act, .. } = self.shape;
        let choices = tokens * routing.top_k as usize;
        let shared_cols = self.shape.shared.map_or(1, |shared| shared.0);
        let shapes = [
            (tokens, hidden),
            (tokens, hidden),
            (choices, inner),
            (choices, hidden),
            (tokens, shared_cols),
        ];
        let (at, arena) = place(&shapes);
        let weight = |known: &Option<Known>| known.as_ref().map(|known| known.weight);
        let args = MoeArgs {
            x: at[0],
            norm: self.norm.weight,
            eps: EPS,
            router: RouterArgs {
                weight: self.router.weight,
                bias: weight(&self.router_bias),
                correction: weight(&self.correction),
                experts,
                routing,
            },
            experts: ExpertsArgs {
                first,
                count,
                inner,
                act,
                gate_up: self.gate_up.weight,
                gate_up_bias: weight(&self.gate_up_bias),
                down: self.down.weight,
                down_bias: weight(&self.down_bias),
                inner_rows: at[2],
                out_rows: at[3],
            },
            shared: self.shared.as_ref().map(|(gate_up, down, gate)| SharedExpertArgs {
                gate_up: gate_up.weight,
                down: down.weight,
                gate: weight(gate),
                inner_rows: at[4],
            }),
            out: at[1],
            next: None,
        };
        (args, arena)
    }

    /// Takes memory for steps of up to so many tokens.
    pub(super) fn allocate(&self, rig: &mut Rig, tokens_max: usize) {
        rig.allocate_for(MemoryLayout {
            arena: self.args(tokens_max).1,
            tokens_max,
            hidden: self.shape.hidden,
            experts_max: self.shape.experts,
            experts_per_token_max: self.shape.routing.top_k as usize,
            ..MemoryLayout::default()
        });
    }

    /// Runs a step; into another tensor, or in place.
    pub(super) fn run(&self, rig: &mut Rig, x: &[f32], in_place: bool) -> Vec<f32> {
        let tokens = x.len() / self.shape.hidden;
        let (args, _) = self.args(tokens);
        let out: Tensor = if in_place { args.x } else { args.out };
        rig.write(args.x, x);
        rig.upload_tokens(&vec![0; tokens], &[]);
        rig.backend.moe(&MoeArgs { out, ..args }).unwrap();
        rig.read(out)
    }

    /// What this rank adds to a token, and by how much its routing is decided.
    pub(super) fn oracle(&self, x: &[f32]) -> (Vec<oracle::Sum>, f64) {
        let Shape { hidden, inner, held: (first, count), routing, act, .. } = self.shape;
        let normed = oracle::rms_norm(x, &self.norm.rows[0], EPS);
        let mut logits: Vec<f64> =
            oracle::gemm(&normed, &self.router.rows).iter().map(|sum| sum.value).collect();
        let column = |known: &Option<Known>| known.as_ref().map(|known| known.rows.concat());
        for (logit, bias) in logits.iter_mut().zip(column(&self.router_bias).unwrap_or_default()) {
            *logit += bias;
        }
        let routed = oracle::route(&logits, column(&self.correction).as_deref(), &routing);
        let biases = [column(&self.gate_up_bias), column(&self.down_bias)];
        let bias = |of: usize, local: usize, each: usize| {
            biases[of].as_ref().map(|bias| &bias[local * each..][..each])
        };
        let mut out = vec![oracle::Sum { value: 0.0, size: 0.0 }; hidden];
        for (expert, weight) in routed.experts {
            let Some(local) = expert.checked_sub(first).filter(|local| *local < count) else {
                continue;
            };
            let rows = oracle::ExpertRows {
                gate_up: &self.gate_up.rows[local * 2 * inner..][..2 * inner],
                gate_up_bias: bias(0, local, 2 * inner),
                down: &self.down.rows[local * hidden..][..hidden],
                down_bias: bias(1, local, hidden),
            };
            oracle::add_weighted(&mut out, weight, &oracle::expert(&normed, rows, act));
        }
        if let Some((gate_up, down, gate)) = &self.shared {
            let (gate_up, down) = (&gate_up.rows, &down.rows);
            let rows = oracle::ExpertRows { gate_up, gate_up_bias: None, down, down_bias: None };
            let gate = gate.as_ref().map(|gate| oracle::dot(&normed, &gate.rows[0]).value);
            let weight = gate.map_or(1.0, oracle::sigmoid);
            let expert = oracle::expert(&normed, rows, ActivationFn::Silu);
            oracle::add_weighted(&mut out, weight, &expert);
        }
        (out, routed.margin)
    }
}

/// `sums` and the residual.
pub(super) fn with_residual(sums: Vec<oracle::Sum>, x: &[f32]) -> Vec<oracle::Sum> {
    let add = |(sum, x): (oracle::Sum, &f32)| oracle::Sum {
        value: sum.value + f64::from(*x),
        size: sum.size + f64::from(x.abs()),
    };
    sums.into_iter().zip(x).map(add).collect()
}

//! Mixtures of experts: routing of all kinds, experts in all formats, alone and among ranks.

mod kinds;
mod oracle;
mod shapes;

use binfer_shard::DType;
use binfer_shard::spec::ActivationFn;

use kinds::{KINDS, Kind, PLAIN};

use super::oracle::Sum;
use super::weights::Known;
use super::{Half, MemoryLayout, Rig, layout, near, same_bits};
use crate::backend::args::{
    ExpertsArgs, MoeArgs, RouterArgs, SharedExpertArgs, Tensor, TensorKind,
};
use crate::backend::{Backend, Weight};

const EPS: f32 = 1e-5;
/// Logits that lie no further apart than this may be told apart wrongly: the device rounds what it
/// multiplies. In units of what goes into a logit.
const LOGIT_ERROR: [(Half, f64); 2] = [(Half::Bf16, 1.5e-3), (Half::F16, 2e-4)];
/// How often a choice is made again with logits that are a little off.
const SHAKES: usize = 8;

/// A mixture on the device, and its weights as the device has them.
struct Mixture {
    kind: Kind,
    norm: Known,
    router: Known,
    router_bias: Option<(Weight, Vec<f64>)>,
    correction: Option<(Weight, Vec<f64>)>,
    first: usize,
    count: usize,
    inner: usize,
    act: ActivationFn,
    gate_up: Known,
    gate_up_bias: Option<Vec<f64>>,
    down: Known,
    down_bias: Option<Vec<f64>>,
    /// Handles of both biases.
    biases: [Option<Weight>; 2],
    shared: Option<Shared>,
}

struct Shared {
    gate_up: Known,
    down: Known,
    gate: Option<Known>,
}

/// Places in the arena.
struct Rooms {
    x: Tensor,
    inner: Tensor,
    out: Tensor,
    shared: Tensor,
}

/// A vector on the device.
fn vector(rig: &mut Rig, values: &[f32]) -> (Weight, Vec<f64>) {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let weight = rig.load(DType::F32, (values.len(), 1), &bytes);
    (weight, values.iter().map(|x| f64::from(*x)).collect())
}

fn random_vector(rig: &mut Rig, len: usize, size: f32) -> (Weight, Vec<f64>) {
    let values: Vec<f32> = rig.random.floats(len).iter().map(|x| size * x).collect();
    vector(rig, &values)
}

impl Mixture {
    fn new(rig: &mut Rig, kind: Kind) -> Self {
        let Kind { hidden, inner, experts, dtype, held: (first, count), .. } = kind;
        let rows = (count * 2 * inner, count * hidden);
        let bias = |rig: &mut Rig, len, size| {
            kind.has_biases.then(|| random_vector(rig, len, size)).unzip()
        };
        let (gate_up_handle, gate_up_bias) = bias(rig, rows.0, 1.0);
        let (down_handle, down_bias) = bias(rig, rows.1, 1.0);
        let router_bias = kind.has_biases.then(|| random_vector(rig, experts, 0.5));
        let correction = kind.has_correction.then(|| random_vector(rig, experts, 0.2));
        let shared = kind.shared.map(|(cols, has_gate)| Shared {
            gate_up: rig.weight(DType::BF16, 2 * cols, hidden),
            down: rig.weight(DType::BF16, hidden, cols),
            gate: has_gate.then(|| rig.weight(DType::F32, 1, hidden)),
        });
        Self {
            kind,
            norm: rig.weight(DType::F32, 1, hidden),
            router: rig.weight(DType::BF16, experts, hidden),
            router_bias,
            correction,
            first,
            count,
            inner,
            act: kind.act,
            gate_up: rig.weight(dtype, rows.0, hidden),
            gate_up_bias,
            down: rig.weight(dtype, rows.1, inner),
            down_bias,
            biases: [gate_up_handle, down_handle],
            shared,
        }
    }

    /// Takes memory for so many tokens.
    fn rooms(&self, rig: &mut Rig, tokens: usize, aligned: bool) -> Rooms {
        let Kind { hidden, inner, experts, routing, shared, .. } = self.kind;
        let top_k = routing.top_k as usize;
        let shared_cols = shared.map_or(8, |(cols, _)| cols);
        // A step covers a bucket of rows, each with all of its slots.
        let slots = tokens.next_multiple_of(64) * top_k;
        let shapes = [
            (tokens, hidden, TensorKind::Sum),
            (slots, inner, TensorKind::Inner),
            (slots, hidden, TensorKind::Inner),
            (tokens, shared_cols, TensorKind::Inner),
        ];
        let (at, arena) = rig.place(&shapes, aligned);
        rig.allocate(&MemoryLayout {
            experts_max: experts,
            experts_per_token_max: top_k,
            ..layout(arena)
        });
        let rows = |tensor: Tensor| tensor.with_rows(tokens * top_k);
        Rooms { x: at[0], inner: rows(at[1]), out: rows(at[2]), shared: at[3] }
    }

    fn args(&self, rooms: &Rooms) -> MoeArgs {
        let handle =
            |vector: &Option<(Weight, Vec<f64>)>| vector.as_ref().map(|(weight, _)| *weight);
        MoeArgs {
            x: rooms.x,
            norm: self.norm.weight,
            eps: EPS,
            router: RouterArgs {
                weight: self.router.weight,
                bias: handle(&self.router_bias),
                correction: handle(&self.correction),
                experts: self.kind.experts,
                routing: self.kind.routing,
            },
            experts: ExpertsArgs {
                first: self.first,
                count: self.count,
                inner: self.inner,
                act: self.act,
                gate_up: self.gate_up.weight,
                gate_up_bias: self.biases[0],
                down: self.down.weight,
                down_bias: self.biases[1],
                inner_rows: rooms.inner,
                out_rows: rooms.out,
            },
            shared: self.shared.as_ref().map(|shared| SharedExpertArgs {
                gate_up: shared.gate_up.weight,
                down: shared.down.weight,
                gate: shared.gate.as_ref().map(|gate| gate.weight),
                inner_rows: rooms.shared,
            }),
            out: rooms.x,
            next: None,
        }
    }

    /// Runs it on `x`, which nothing was left of from the run before.
    fn run(&self, rig: &mut Rig, rooms: &Rooms, x: &[f32], is_decode: bool) -> Vec<f32> {
        rig.backend.memory.poison(&rig.backend.device.stream).unwrap();
        rig.write(rooms.x, x);
        rig.upload(rooms.x.rows, is_decode);
        rig.backend.moe(&self.args(rooms)).unwrap();
        let got = rig.read(rooms.x);
        rig.outcome();
        got
    }

    /// What a token should become; `None` where its logits are so near each other that the device
    /// may choose otherwise.
    fn want(&self, rig: &mut Rig, x: &[f32]) -> Option<Vec<Sum>> {
        let routing = &self.kind.routing;
        let normed = super::oracle::rms_norm(x, &self.norm.rows[0], EPS);
        let mut logits = super::oracle::gemm(&normed, &self.router.rows);
        if let Some((_, bias)) = &self.router_bias {
            logits.iter_mut().zip(bias).for_each(|(logit, bias)| logit.value += bias);
        }
        let none = vec![0.0; self.kind.experts];
        let correction = self.correction.as_ref().map_or(&none, |(_, correction)| correction);
        let values: Vec<f64> = logits.iter().map(|logit| logit.value).collect();
        let choice = oracle::route(routing, &values, correction);
        let error = LOGIT_ERROR.iter().find(|(half, _)| *half == rig.half()).unwrap().1;
        let ids = |values: &[f64]| {
            let choice = oracle::route(routing, values, correction);
            let mut ids: Vec<usize> = choice.into_iter().map(|(expert, _)| expert).collect();
            ids.sort_unstable();
            ids
        };
        let chosen = ids(&values);
        for _ in 0..SHAKES {
            let shaken = logits.iter().map(|logit| {
                let off = f64::from(rig.random.float().signum());
                logit.value + off * error * logit.size
            });
            if ids(&shaken.collect::<Vec<_>>()) != chosen {
                return None;
            }
        }
        Some(oracle::token(self, x, &normed, &choice))
    }

    /// Compares all tokens that are chosen for clearly; returns how many those are.
    fn compare(&self, rig: &mut Rig, x: &[f32], got: &[f32], what: &str) -> usize {
        let hidden = self.kind.hidden;
        let mut compared = 0;
        for (token, (x, got)) in x.chunks(hidden).zip(got.chunks(hidden)).enumerate() {
            assert!(got.iter().all(|x| x.is_finite()), "{what}: token {token} is no number");
            if let Some(want) = self.want(rig, x) {
                near(got, &want, rig.half(), &format!("{what}, token {token}"));
                compared += 1;
            }
        }
        compared
    }

    /// One case: twice the same bits, and the oracle's result.
    fn check(&self, rig: &mut Rig, tokens: usize, is_decode: bool, aligned: bool) {
        let rooms = self.rooms(rig, tokens, aligned);
        let x = rig.random.floats(tokens * self.kind.hidden);
        let what = format!("{:?} {}, {tokens} tokens, {is_decode}", rig.half(), self.kind.name);
        let got = self.run(rig, &rooms, &x, is_decode);
        same_bits(&got, &self.run(rig, &rooms, &x, is_decode), &what);
        let compared = self.compare(rig, &x, &got, &what);
        assert!(4 * compared >= tokens || tokens < 8, "{what}: {compared} are clear");
    }
}

/// What mixtures make of so many tokens, again and again to the same bits: a mixture with experts
/// in each format, long enough that rings go round.
pub(super) fn repeated(rig: &mut Rig, tokens: usize, repeats: usize) -> Vec<f32> {
    let of_format = |dtype: DType| {
        let kind = KINDS.iter().rev().find(|kind| kind.dtype == dtype).unwrap_or(&PLAIN);
        Kind { hidden: 1024, inner: 640, experts: 16, held: (0, 16), shared: None, ..*kind }
    };
    let kinds = [DType::BF16, DType::MXFP4, DType::FP8_BLOCK].map(of_format);
    let of_kind = |kind: Kind| {
        let mixture = Mixture::new(rig, kind);
        let rooms = mixture.rooms(rig, tokens, true);
        let x = rig.random.floats(tokens * kind.hidden);
        let mut run = || mixture.run(rig, &rooms, &x, tokens <= 256);
        let first = run();
        (1..repeats).for_each(|_| same_bits(&first, &run(), &format!("{tokens} tokens, {kind:?}")));
        first
    };
    kinds.into_iter().flat_map(of_kind).collect()
}

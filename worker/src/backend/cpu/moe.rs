//! The `moe` operation: routing, experts and the shared expert, pass by pass of tokens.
//!
//! Rows are sorted by expert, so that a pass reads a weight once. A token's experts, their weights
//! and the order in which they are added are its own: company does not show in the bits.

use std::ops::Range;

use binfer_shard::spec::ActivationFn;

use super::expert_rows::SortedChoices;
use super::gemm::{CpuEpilogue, GemmWorkspace, pass_rows, pass_tokens};
use super::gemm_rows::GemmRows;
use super::inputs::GROUP;
use super::math;
use super::matrix::PackedMatrix;
use super::moe_weights::{MoeWeights, SharedWeights};
use super::panel::{Panel, PanelSource};
use super::ranks::CpuRanks;
use super::routing::{ExpertChoice, RouteToken};
use super::simd::{Isa, IsaKernel, Level};
use super::threads::Team;
use crate::backend::args::MoeArgs;
use crate::backend::{BackendError, MemoryLayout};

/// A matrix, its bias, and what is done with the result.
type GemmOf<'a> = (&'a PackedMatrix, Option<&'a [f32]>, CpuEpilogue);

/// Tokens that experts see at once at most. The more there are, the fewer times an expert is read.
const PASS_TOKENS_MAX: usize = 512;
/// Inputs of the longest block of weights.
const BLOCK_INPUTS_MAX: usize = 256;

/// Groups of inputs of a matrix that is fed `hidden` numbers, at most.
pub(super) fn groups_max(hidden: usize) -> usize {
    hidden.next_multiple_of(BLOCK_INPUTS_MAX) / GROUP
}

/// Tokens that experts see at once: the same on all ranks, which sum that many rows at once.
pub(super) fn expert_pass_tokens(hidden: usize) -> usize {
    Panel::rows_max(groups_max(hidden)).clamp(8, PASS_TOKENS_MAX)
}

/// Memory of `moe`.
#[derive(Default)]
pub(super) struct MoeScratch {
    /// `[tokens, experts]`.
    logits: Vec<f32>,
    /// One for each expert.
    keys: Vec<f32>,
    /// `[tokens, top_k]`.
    choices: Vec<ExpertChoice>,
    sorted: SortedChoices,
}

impl MoeScratch {
    /// Takes memory for so many tokens.
    pub(super) fn reserve(&mut self, tokens: usize, layout: &MemoryLayout) {
        let choices = tokens * layout.experts_per_token_max;
        self.logits.resize(tokens * layout.experts_max, 0.0);
        self.keys.resize(layout.experts_max, 0.0);
        self.choices.resize(choices, ExpertChoice::default());
        self.sorted.reserve(choices, layout.experts_max);
    }

    /// What the tokens of the last pass chose.
    #[cfg(test)]
    pub(super) fn choices(&self) -> &[ExpertChoice] {
        &self.choices
    }
}

/// The operation, and who does it.
pub(super) struct Moe<'a> {
    pub(super) args: &'a MoeArgs,
    pub(super) weights: MoeWeights<'a>,
    pub(super) team: &'a Team,
    pub(super) level: Level,
}

/// Memory that the operation works in.
pub(super) struct MoeWork<'a> {
    pub(super) gemm: &'a mut GemmWorkspace,
    pub(super) scratch: &'a mut MoeScratch,
    /// `[tokens of a pass, hidden]` or more.
    pub(super) sums: &'a mut [f32],
    /// `[tokens, hidden]`: the residual stream, and the output.
    pub(super) out: &'a mut [f32],
    /// Between the gemms of experts, `[rows, inner]`.
    pub(super) inner_rows: &'a mut [f32],
    /// What experts make of tokens, `[rows, hidden]`.
    pub(super) out_rows: &'a mut [f32],
    /// Between the gemms of the shared expert.
    pub(super) shared_rows: &'a mut [f32],
}

impl Moe<'_> {
    /// Runs it on all tokens.
    pub(super) fn run(
        &self,
        mut work: MoeWork<'_>,
        ranks: &mut CpuRanks,
    ) -> Result<(), BackendError> {
        let hidden = self.args.x.cols;
        let out = std::mem::take(&mut work.out);
        for out in out.chunks_mut(expert_pass_tokens(hidden) * hidden) {
            self.pass(&mut work, out);
            let sums = &mut work.sums[..out.len()];
            ranks.sum("moe", sums)?;
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out += *sum);
        }
        Ok(())
    }

    /// What this rank's experts make of the tokens of `x`, into `sums`.
    fn pass(&self, work: &mut MoeWork<'_>, x: &[f32]) {
        let hidden = self.args.x.cols;
        let tokens = x.len() / hidden;
        let row = |token| &x[token * hidden..][..hidden];
        let source = PanelSource { tokens, row, norm: Some(self.weights.norm) };
        work.gemm.panel.fill(self.team, self.level, self.weights.widest(), source);
        self.route(work, tokens);
        if let Some(shared) = &self.weights.shared {
            self.shared_gate_up(work, shared, tokens);
        }
        self.gate_up(work);
        self.down(work);
        self.combine(work, tokens);
        if let Some(shared) = &self.weights.shared {
            self.shared_down(work, shared, tokens);
        }
    }

    fn route(&self, work: &mut MoeWork<'_>, tokens: usize) {
        let router = &self.args.router;
        let (matrix, top_k) = (self.weights.router, router.routing.top_k as usize);
        let MoeScratch { logits, keys, choices, sorted } = &mut *work.scratch;
        let logits = &mut logits[..tokens * router.experts];
        let bias = self.weights.router_bias;
        self.whole(work.gemm, (matrix, bias, CpuEpilogue::Store), tokens, logits);
        let choices = &mut choices[..tokens * top_k];
        let routed = logits.chunks_exact_mut(router.experts).zip(choices.chunks_exact_mut(top_k));
        for (logits, choices) in routed {
            let keys = &mut keys[..router.experts];
            let (routing, correction) = (&router.routing, self.weights.correction);
            self.level.run(RouteToken { routing, correction, logits, keys, choices });
        }
        let experts = &self.args.experts;
        sorted.sort(choices, top_k, experts.first..experts.first + experts.count);
    }

    /// A gemm of a whole matrix with the panel's first `tokens` rows.
    fn whole(
        &self,
        gemm: &mut GemmWorkspace,
        (matrix, bias, epilogue): GemmOf<'_>,
        tokens: usize,
        out: &mut [f32],
    ) {
        let (cols, pass) = (out.len() / tokens, pass_tokens(matrix));
        for (index, out) in out.chunks_mut(pass * cols).enumerate() {
            let first = index * pass;
            gemm.rows.whole(matrix, first..tokens.min(first + pass));
            gemm.gemm(matrix, bias, epilogue).run(self.team, self.level, out, cols);
        }
    }

    /// Gate and up of the experts, into `inner_rows`.
    fn gate_up(&self, work: &mut MoeWork<'_>) {
        let matrix = self.weights.gate_up;
        let (sorted, inner) = (&work.scratch.sorted, self.args.experts.inner);
        let (pass, rows) = (pass_rows(matrix), sorted.count());
        let epilogue = CpuEpilogue::Glu(self.args.experts.act);
        let out = work.inner_rows[..rows * inner].chunks_mut(pass * inner);
        for (index, out) in out.enumerate() {
            let chunk = index * pass..rows.min((index + 1) * pass);
            let rows = ChunkRows { matrix, sorted, chunk };
            rows.choose(&mut work.gemm.rows, |row| sorted.token(row));
            let gemm = work.gemm.gemm(matrix, self.weights.gate_up_bias, epilogue);
            gemm.run(self.team, self.level, out, inner);
        }
    }

    /// Down of the experts, into `out_rows`.
    fn down(&self, work: &mut MoeWork<'_>) {
        let matrix = self.weights.down;
        let (sorted, inner) = (&work.scratch.sorted, self.args.experts.inner);
        let (pass, rows, hidden) = (pass_rows(matrix), sorted.count(), self.args.x.cols);
        let inner_rows = work.inner_rows[..rows * inner].chunks(pass * inner);
        let out = work.out_rows[..rows * hidden].chunks_mut(pass * hidden);
        for (index, (inner_rows, out)) in inner_rows.zip(out).enumerate() {
            let chunk = index * pass..rows.min((index + 1) * pass);
            let row = |row| &inner_rows[row * inner..][..inner];
            let source = PanelSource { tokens: chunk.len(), row, norm: None };
            work.gemm.panel.fill(self.team, self.level, matrix, source);
            let first = chunk.start;
            let rows = ChunkRows { matrix, sorted, chunk };
            rows.choose(&mut work.gemm.rows, |row| row - first);
            let gemm = work.gemm.gemm(matrix, self.weights.down_bias, CpuEpilogue::Store);
            gemm.run(self.team, self.level, out, hidden);
        }
    }

    /// Adds up each token's rows by their weights, in the order of choice.
    fn combine(&self, work: &mut MoeWork<'_>, tokens: usize) {
        let (hidden, top_k) = (self.args.x.cols, self.args.router.routing.top_k as usize);
        let MoeScratch { choices, sorted, .. } = &*work.scratch;
        let (rows, sums) = (&*work.out_rows, &mut work.sums[..tokens * hidden]);
        self.team.pieces(sums.len() * top_k, sums, hidden, |token, sums| {
            sums.fill(0.0);
            let first = token * top_k;
            for (index, choice) in choices[first..][..top_k].iter().enumerate() {
                let Some(row) = sorted.row(first + index) else { continue };
                let (weight, row) = (choice.weight, &rows[row * hidden..][..hidden]);
                self.level.run(AddWeighted { sums, weight, row });
            }
        });
    }

    /// Gate and up of the shared expert, weighed by its own gate, into `shared_rows`.
    fn shared_gate_up(&self, work: &mut MoeWork<'_>, shared: &SharedWeights<'_>, tokens: usize) {
        let rows = &mut work.shared_rows[..tokens * shared.inner];
        let epilogue = CpuEpilogue::Glu(ActivationFn::Silu);
        self.whole(work.gemm, (shared.gate_up, None, epilogue), tokens, rows);
        let Some(gate) = shared.gate else { return };
        for (token, row) in rows.chunks_exact_mut(shared.inner).enumerate() {
            let x = &work.gemm.panel.plain(token)[..gate.len()];
            self.level.run(GateShared { gate, x, row });
        }
    }

    /// Adds what the shared expert makes of each token.
    fn shared_down(&self, work: &mut MoeWork<'_>, shared: &SharedWeights<'_>, tokens: usize) {
        let (matrix, hidden, inner) = (shared.down, self.args.x.cols, shared.inner);
        let pass = pass_tokens(matrix);
        let rows = work.shared_rows[..tokens * inner].chunks(pass * inner);
        let sums = work.sums[..tokens * hidden].chunks_mut(pass * hidden);
        for (rows, sums) in rows.zip(sums) {
            let row = |token| &rows[token * inner..][..inner];
            let source = PanelSource { tokens: rows.len() / inner, row, norm: None };
            work.gemm.panel.fill(self.team, self.level, matrix, source);
            self.whole(work.gemm, (matrix, None, CpuEpilogue::Add), rows.len() / inner, sums);
        }
    }
}

/// Some of the sorted rows, for a gemm with a stack of experts.
struct ChunkRows<'a> {
    matrix: &'a PackedMatrix,
    sorted: &'a SortedChoices,
    chunk: Range<usize>,
}

impl ChunkRows<'_> {
    /// Chooses them; `panel_row` says which row of the panel each multiplies.
    fn choose(&self, to: &mut GemmRows, panel_row: impl Fn(usize) -> usize) {
        let chunk = &self.chunk;
        to.begin(chunk.len());
        for expert in 0..self.matrix.problems() {
            let rows = self.sorted.of_expert(expert);
            let rows = rows.start.max(chunk.start)..rows.end.min(chunk.end);
            let pairs = rows.map(|row| (panel_row(row), row - chunk.start));
            to.push(self.matrix.problem(expert), pairs);
        }
    }
}

/// `sums += weight * row`.
struct AddWeighted<'a> {
    sums: &'a mut [f32],
    weight: f32,
    row: &'a [f32],
}

impl IsaKernel for AddWeighted<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        for (sum, x) in self.sums.iter_mut().zip(self.row) {
            *sum = I::mul_add(self.weight, *x, *sum);
        }
    }
}

/// `row *= sigmoid(gate * x)`.
struct GateShared<'a> {
    gate: &'a [f32],
    x: &'a [f32],
    row: &'a mut [f32],
}

impl IsaKernel for GateShared<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        let weight = math::sigmoid::<I>(math::dot::<I>(self.gate, self.x));
        self.row.iter_mut().for_each(|x| *x *= weight);
    }
}

//! The backend's operations, each a few calls of this folder's functions.

use std::ops::Range;
use std::sync::Arc;

use binfer_proto::Mask;

use super::attend::Attend;
use super::attend_latent::{AttendLatent, LatentWork};
use super::cpu_backend::CpuBackend;
use super::gemm::{CpuEpilogue, pass_tokens};
use super::moe::{Moe, MoeWork};
use super::moe_weights::MoeWeights;
use super::panel::{PanelNorm, PanelSource};
use super::sample::LogitsRow;
use super::weights::{matrix, optional, shape_of, vector};
use super::workspace::Workspace;
use crate::backend::args::{
    AttendArgs, AttendLatentArgs, EmbedArgs, HeadArgs, LinearOutArgs, MoeArgs, NormLinearArgs,
    SampleArgs, Tensor,
};
use crate::backend::check::WeightShape;
use crate::backend::{Backend, BackendError, StepMode, StepOutcome, Ticket};
use crate::batch::{Batch, TokenInput};

/// Outputs whose logits are made at once; the same on all ranks, however they share the vocabulary.
const HEAD_TOKENS: usize = 8;

impl CpuBackend {
    /// Copies activations to the host: for tests and traces, not for steps.
    pub fn read(&self, x: Tensor) -> Result<Vec<f32>, BackendError> {
        let x = self.arena.get(range(&x)).ok_or_else(|| BackendError::Args {
            operation: "read",
            cause: format!("{x:?} is not in the arena"),
        })?;
        Ok(x.to_vec())
    }
}

impl Backend for CpuBackend {
    fn upload(&mut self, batch: Arc<Batch>) -> Result<StepMode, BackendError> {
        self.step.begin(batch, &self.layout)?;
        self.step.batch.opened.iter().for_each(|tokens| self.sampler.open(tokens));
        self.work.attend_scratch.upload(&self.step.batch);
        self.tables.write(&self.step.batch.new_blocks)?;
        Ok(StepMode::Eager)
    }

    fn embed(&mut self, args: &EmbedArgs) -> Result<(), BackendError> {
        let table = matrix(&self.weights, "embed", args.table)?;
        let shape = shape_of(&self.weights, "embed", args.table)?;
        args.check(&self.step_shape(), shape)?;
        let out = &mut self.arena[range(&args.out)];
        for (input, out) in self.step.batch.tokens.iter().zip(out.chunks_exact_mut(args.out.cols)) {
            let token = match input {
                TokenInput::Known(token) => *token,
                TokenInput::LastSample(slot) => self.last_tokens[slot.index()],
            };
            match (token as usize).checked_sub(args.first_token) {
                Some(row) if row < table.rows() => table.read_row(row, out),
                _ => out.fill(0.0),
            }
        }
        self.ranks.sum("embed", out)
    }

    fn norm_linear(&mut self, args: &NormLinearArgs) -> Result<(), BackendError> {
        let operation = "norm_linear";
        let weight = matrix(&self.weights, operation, args.weight)?;
        let scale = vector(&self.weights, operation, args.norm)?;
        let bias = optional(&self.weights, operation, args.bias)?;
        let shape = shape_of(&self.weights, operation, args.weight)?;
        let (norm, added) = (WeightShape::of_vector(scale), bias.map(WeightShape::of_vector));
        args.check(&self.step_shape(), norm, shape, added)?;
        let (team, level, work) = (&self.team, self.settings.level, &mut self.work.gemm);
        let (x, out) = apart(&mut self.arena, &args.x, &args.out);
        let (hidden, cols) = (args.x.cols, args.out.cols);
        let epilogue = CpuEpilogue::of(args.glu);
        let pass = pass_tokens(weight);
        for (x, out) in x.chunks(pass * hidden).zip(out.chunks_mut(pass * cols)) {
            let row = |token| &x[token * hidden..][..hidden];
            let norm = Some(PanelNorm { scale, eps: args.eps });
            let source = PanelSource { tokens: x.len() / hidden, row, norm };
            work.rows.whole(weight, 0..source.tokens);
            work.panel.fill(team, level, weight, source);
            work.gemm(weight, bias, epilogue).run(team, level, out, cols);
        }
        Ok(())
    }

    fn attend(&mut self, args: &AttendArgs) -> Result<(), BackendError> {
        let q_norm = optional(&self.weights, "attend", args.q_norm)?;
        let k_norm = optional(&self.weights, "attend", args.k_norm)?;
        let sinks = optional(&self.weights, "attend", args.sinks)?;
        let shapes = [q_norm, k_norm, sinks].map(|vector| vector.map(WeightShape::of_vector));
        args.check(&self.step_shape(), shapes)?;
        let refuse = || BackendError::Args {
            operation: "attend",
            cause: format!("layer {} has no cache", args.layer),
        };
        let cache = self.caches.get_mut(args.layer).ok_or_else(refuse)?;
        let (qkv, out) = apart(&mut self.arena, &args.qkv, &args.out);
        let [q_norm, k_norm] =
            [q_norm, k_norm].map(|v| v.map(|scale| PanelNorm { scale, eps: args.norm_eps }));
        let (batch, tables) = (&self.step.batch, &self.tables);
        let attend = Attend { args, q_norm, k_norm, sinks, batch, tables, cache, qkv, out };
        self.work.attend_scratch.attend(&self.team, self.settings.level, attend)
    }

    fn attend_latent(&mut self, args: &AttendLatentArgs) -> Result<(), BackendError> {
        let operation = "attend_latent";
        let scale = vector(&self.weights, operation, args.latent_norm)?;
        let [k_b, v_b] =
            [args.k_b, args.v_b].map(|weight| matrix(&self.weights, operation, weight));
        let shape = |weight| shape_of(&self.weights, operation, weight);
        let shapes = [shape(args.latent_norm)?, shape(args.k_b)?, shape(args.v_b)?];
        args.check(&self.step_shape(), shapes)?;
        let refuse = || BackendError::Args {
            operation,
            cause: format!("layer {} has no cache", args.layer),
        };
        let cache = self.caches.get_mut(args.layer).ok_or_else(refuse)?;
        let tensors = [&args.queries, &args.latent, &args.out].map(range);
        let [queries, latent, out] = disjoint(operation, &mut self.arena, tensors)?;
        let attend = AttendLatent {
            args,
            norm: PanelNorm { scale, eps: args.norm_eps },
            k_b: k_b?,
            v_b: v_b?,
            batch: &self.step.batch,
            tables: &self.tables,
            team: &self.team,
            level: self.settings.level,
        };
        let Workspace { gemm, attend_scratch, latent: scratch, .. } = &mut self.work;
        let work = LatentWork { cache, gemm, attend: attend_scratch, scratch };
        attend.run(work, (queries, latent), out)
    }

    fn moe(&mut self, args: &MoeArgs) -> Result<(), BackendError> {
        let checked = (&self.step_shape(), &self.layout);
        let weights = MoeWeights::find(&self.weights, args, checked)?;
        if args.x != args.out {
            self.arena.copy_within(range(&args.x), args.out.offset);
        }
        let shared = args.shared.as_ref().map_or(0..0, |shared| range(&shared.inner_rows));
        let (inner_rows, out_rows) = (&args.experts.inner_rows, &args.experts.out_rows);
        let tensors = [range(&args.out), range(inner_rows), range(out_rows), shared];
        let [out, inner_rows, out_rows, shared_rows] = disjoint("moe", &mut self.arena, tensors)?;
        let Workspace { gemm, moe: scratch, exchanged: sums, .. } = &mut self.work;
        let work = MoeWork { gemm, scratch, sums, out, inner_rows, out_rows, shared_rows };
        let moe = Moe { args, weights, team: &self.team, level: self.settings.level };
        moe.run(work, &mut self.ranks)
    }

    fn linear_out(&mut self, args: &LinearOutArgs) -> Result<(), BackendError> {
        let operation = "linear_out";
        let weight = matrix(&self.weights, operation, args.weight)?;
        let shape = shape_of(&self.weights, operation, args.weight)?;
        let bias = optional(&self.weights, operation, args.bias)?;
        args.check(&self.step_shape(), shape, bias.map(WeightShape::of_vector))?;
        if args.residual != args.out {
            self.arena.copy_within(range(&args.residual), args.out.offset);
        }
        let (team, level, work) = (&self.team, self.settings.level, &mut self.work);
        let (x, out) = apart(&mut self.arena, &args.x, &args.out);
        let (inputs, cols, pass) = (args.x.cols, args.out.cols, pass_tokens(weight));
        for (x, out) in x.chunks(pass * inputs).zip(out.chunks_mut(pass * cols)) {
            let row = |token| &x[token * inputs..][..inputs];
            let source = PanelSource { tokens: x.len() / inputs, row, norm: None };
            let Workspace { gemm, exchanged, .. } = &mut *work;
            gemm.rows.whole(weight, 0..source.tokens);
            gemm.panel.fill(team, level, weight, source);
            if !self.ranks.are_several() {
                gemm.gemm(weight, bias, CpuEpilogue::Add).run(team, level, out, cols);
                continue;
            }
            let sums = &mut exchanged[..out.len()];
            gemm.gemm(weight, None, CpuEpilogue::Store).run(team, level, sums, cols);
            self.ranks.sum(operation, sums)?;
            if let Some(bias) = bias {
                sums.chunks_exact_mut(cols).for_each(|sums| add(sums, bias));
            }
            add(out, sums);
        }
        Ok(())
    }

    fn head(&mut self, args: &HeadArgs) -> Result<(), BackendError> {
        let operation = "head";
        let weight = matrix(&self.weights, operation, args.weight)?;
        let scale = vector(&self.weights, operation, args.norm)?;
        let [norm, shape] = [args.norm, args.weight].map(|w| shape_of(&self.weights, operation, w));
        args.check(&self.step_shape(), norm?, shape?)?;
        let (team, level, work) = (&self.team, self.settings.level, &mut self.work);
        let (x, logits) = apart(&mut self.arena, &args.x, &args.logits);
        let (hidden, vocab) = (args.x.cols, args.logits.cols);
        let batch = Arc::clone(&self.step.batch);
        let outputs = batch.outputs.chunks(HEAD_TOKENS);
        for (outputs, logits) in outputs.zip(logits.chunks_mut(HEAD_TOKENS * vocab)) {
            let row = |output: usize| &x[outputs[output].token * hidden..][..hidden];
            let norm = Some(PanelNorm { scale, eps: args.eps });
            let Workspace { gemm, exchanged, .. } = &mut *work;
            let source = PanelSource { tokens: outputs.len(), row, norm };
            gemm.rows.whole(weight, 0..source.tokens);
            gemm.panel.fill(team, level, weight, source);
            (0..outputs.len()).for_each(|output| self.step.hash_hidden(gemm.panel.plain(output)));
            let gemm = gemm.gemm(weight, None, CpuEpilogue::Store);
            if !self.ranks.are_several() {
                gemm.run(team, level, logits, vocab);
                continue;
            }
            let mine = &mut exchanged[..outputs.len() * weight.rows()];
            gemm.run(team, level, mine, weight.rows());
            self.ranks.gather_logits(mine, outputs.len(), logits)?;
        }
        Ok(())
    }

    fn masks(&mut self, masks: Vec<Mask>) -> Result<(), BackendError> {
        self.step.mask(masks, self.layout.vocab)
    }

    fn sample(&mut self, args: &SampleArgs) -> Result<(), BackendError> {
        args.check(&self.step_shape())?;
        let masks = self.step.take_masks()?;
        let mut masks = masks.iter().peekable();
        let logits = self.arena[range(&args.logits)].chunks_exact(args.logits.cols);
        self.step.sampled.clear();
        self.step.logprobs.clear();
        for ((index, output), logits) in (0..).zip(&self.step.batch.outputs).zip(logits) {
            let row =
                LogitsRow { output, logits, mask: masks.next_if(|mask| mask.output == index) };
            let sampled = self.sampler.sample(row, &mut self.step.logprobs);
            self.last_tokens[output.slot.index()] = sampled.token;
            self.step.sampled.push(sampled);
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<Ticket, BackendError> {
        Ok(self.step.commit())
    }

    fn is_done(&mut self, _: Ticket) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn collect(&mut self, ticket: Ticket) -> Result<StepOutcome, BackendError> {
        self.step.collect(ticket)
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

fn range(tensor: &Tensor) -> Range<usize> {
    tensor.offset..tensor.offset + tensor.len()
}

/// Tensors that do not overlap.
fn disjoint<'a, const N: usize>(
    operation: &'static str,
    arena: &'a mut [f32],
    ranges: [Range<usize>; N],
) -> Result<[&'a mut [f32]; N], BackendError> {
    let refuse = |error| BackendError::Args { operation, cause: format!("tensors: {error}") };
    arena.get_disjoint_mut(ranges).map_err(refuse)
}

/// Two tensors that do not overlap: one to read, one to write.
fn apart<'a>(arena: &'a mut [f32], read: &Tensor, write: &Tensor) -> (&'a [f32], &'a mut [f32]) {
    if read.offset < write.offset {
        let (low, high) = arena.split_at_mut(write.offset);
        return (&low[range(read)], &mut high[..write.len()]);
    }
    let (low, high) = arena.split_at_mut(read.offset);
    (&high[..read.len()], &mut low[range(write)])
}

//! The backend's operations: contracts checked, handles turned into addresses, kernels launched.

use std::sync::Arc;

use binfer_kernels::list;
use binfer_kernels::params::EmbedParams;
use binfer_proto::Mask;
use binfer_shard::{LocalPart, LocalTensor, Source};
use half::{bf16, f16};

use super::memory::Memory;
use super::product::{Norms, Product, Then, word};
use super::rehearsal::rehearsal;
use super::ring::Ring;
use super::share::LogitsPlace;
use super::step::Step;
use super::{CudaBackend, Half};
use crate::backend::args::{
    AttendArgs, EmbedArgs, HeadArgs, Kind, LinearOutArgs, NormLinearArgs, SampleArgs, Tensor,
};
use crate::backend::check::{StepShape, check_batch, check_masked};
use crate::backend::{
    Abort, Backend, BackendError, Begun, MemoryPlan, Peaks, StepOutput, Ticket, Weight,
};
use crate::batch::Batch;

impl CudaBackend {
    fn step_shape(&self) -> StepShape {
        StepShape {
            arena: self.memory.arena.bytes() / 4,
            tokens: self.step.batch.tokens.len(),
            outputs: self.step.batch.outputs.len(),
            vocab: self.step.plan.vocab,
        }
    }

    /// Address of a tensor of that kind.
    fn address(
        &self,
        operation: &'static str,
        tensor: &Tensor,
        kind: Kind,
    ) -> Result<u64, BackendError> {
        // Launches of a decode step cover more rows than the tensor has: the bucket's.
        let rows = self.covered_rows(tensor);
        let room = self.memory.arena.bytes() / 4;
        let fits = rows.checked_mul(tensor.cols).and_then(|len| len.checked_add(tensor.offset));
        if tensor.kind != kind || fits.is_none_or(|end| end > room) {
            let cause = format!("{tensor:?} where {kind:?} is wanted, in an arena of {room}");
            return Err(BackendError::Args { operation, cause });
        }
        Ok(self.memory.arena.address() + 4 * tensor.offset as u64)
    }

    /// Address of a tensor in the backend's own type.
    pub(super) fn inner(
        &self,
        operation: &'static str,
        tensor: &Tensor,
    ) -> Result<u64, BackendError> {
        self.address(operation, tensor, Kind::Inner)
    }

    /// Address of a tensor of sums.
    fn sum(&self, operation: &'static str, tensor: &Tensor) -> Result<u64, BackendError> {
        self.address(operation, tensor, Kind::Sum)
    }
}

impl Backend for CudaBackend {
    fn load(
        &mut self,
        source: &Source,
        tensors: &[LocalTensor],
        done: &mut dyn FnMut(u64),
    ) -> Result<Vec<Weight>, BackendError> {
        let open = |part: &LocalPart| {
            let mut reader = source.reader(part)?;
            Ok(move |out: &mut [u8]| reader.fill(out))
        };
        self.adopt(tensors, open, done)
    }

    fn invent(
        &mut self,
        tensors: &[LocalTensor],
        done: &mut dyn FnMut(u64),
    ) -> Result<Vec<Weight>, BackendError> {
        self.fill(tensors, done)
    }

    fn comm_id(&mut self, _world: usize) -> Result<Vec<u8>, BackendError> {
        self.ranks.new_id()
    }

    fn join(&mut self, id: &[u8], rank: usize, world: usize) -> Result<Abort, BackendError> {
        self.measured(|backend| backend.ranks.join(id, rank, world))
    }

    fn kv_bytes_max(&self, plan: &MemoryPlan) -> Result<Option<u64>, BackendError> {
        self.cache_bytes_max(plan).map(Some)
    }

    fn kv_layout(&self) -> &'static str {
        "k and v [block][kv_head][token][element]"
    }

    fn allocate(&mut self, plan: &MemoryPlan) -> Result<(), BackendError> {
        self.device.stream.synchronize()?;
        self.memory = Memory::new(plan, &self.device.stream)?;
        self.step = Step::new(plan, Ring::new(plan, &self.memory.groups)?)?;
        self.device.keep_names(plan.stamps_max > 0);
        self.device.stream.synchronize()?;
        self.measured(|backend| backend.run_collectives(plan))
    }

    fn upload(&mut self, batch: Arc<Batch>) -> Result<Begun, BackendError> {
        check_batch(&batch, &self.step.plan)?;
        self.recordings.give_up();
        self.step.begin(batch)?;
        self.ranks.step_begins();
        self.begin_slots()?;
        if self.replay()? {
            self.step.is_replayed = true;
            return Ok(Begun::Replayed);
        }
        self.launch_apply()?;
        Ok(Begun::Operations)
    }

    fn embed(&mut self, args: &EmbedArgs) -> Result<(), BackendError> {
        let table = self.weights.matrix("embed", args.table)?;
        args.check(&self.step_shape(), table.shape())?;
        let params = EmbedParams {
            step: self.memory.at.tables,
            table: table.address,
            out: self.sum("embed", &args.out)?,
            cols: word(table.cols),
            stride: word(table.stride),
            first_token: word(args.first_token),
            table_rows: word(table.rows),
        };
        self.device.launch(list::EMBED, [self.step.shape.tokens, 1, 1], &params)?;
        self.sum_over_ranks("embed", params.out, &args.out)
    }

    fn norm_linear(&mut self, args: &NormLinearArgs) -> Result<(), BackendError> {
        let operation = "norm_linear";
        let weight = self.weights.matrix(operation, args.weight)?;
        let scale = self.weights.vector(operation, args.norm)?;
        let bias = self.weights.optional(operation, args.bias)?;
        let added = bias.map(|bias| bias.shape());
        args.check(&self.step_shape(), scale.shape(), weight.shape(), added)?;
        let (out, from) = (self.inner(operation, &args.out)?, self.sum(operation, &args.x)?);
        let then = if args.glu.is_some() { Then::Glu } else { Then::Store };
        let (tokens, out_stride) = (self.step.shape.tokens, word(args.out.cols));
        let (x, norms) = (self.memory.at.normed, Norms::default());
        let product = Product { x, tokens, weight, bias, then, out, out_stride, norms };
        self.norm_and_multiply(from, (scale, args.eps), product)
    }

    fn attend(&mut self, args: &AttendArgs) -> Result<(), BackendError> {
        let q_norm = self.weights.optional("attend", args.q_norm)?;
        let k_norm = self.weights.optional("attend", args.k_norm)?;
        let vectors = [q_norm, k_norm, self.weights.optional("attend", args.sinks)?];
        args.check(&self.step_shape(), vectors.map(|vector| vector.map(|vector| vector.shape())))?;
        self.mix(args, vectors)
    }

    fn linear_out(&mut self, args: &LinearOutArgs) -> Result<(), BackendError> {
        let operation = "linear_out";
        let weight = self.weights.matrix(operation, args.weight)?;
        let bias = self.weights.optional(operation, args.bias)?;
        args.check(&self.step_shape(), weight.shape(), bias.map(|bias| bias.shape()))?;
        let (x, out) = (self.inner(operation, &args.x)?, self.sum(operation, &args.out)?);
        // The residual is in the first rank's part of the sum, the bias too; so both count once.
        let is_first = self.ranks.rank() == 0;
        if is_first && args.residual != args.out {
            let (to, from) = (4 * args.out.offset, 4 * args.residual.offset);
            let bytes = 4 * args.residual.len();
            self.memory.arena.copy_within(to, from, bytes, &self.device.stream)?;
        }
        let (tokens, out_stride) = (self.step.shape.tokens, word(args.out.cols));
        let (then, bias) = if is_first { (Then::Add, bias) } else { (Then::Part, None) };
        // With several ranks, what is normed next is not there before the sum.
        let next = args.next_norm.filter(|_| !self.ranks.are_several());
        let norms = Norms { before: None, behind: self.weights.optional(operation, next)? };
        self.multiply(&Product { x, tokens, weight, bias, then, out, out_stride, norms })?;
        self.sum_over_ranks(operation, out, &args.out)
    }

    fn head(&mut self, args: &HeadArgs) -> Result<(), BackendError> {
        let operation = "head";
        let weight = self.weights.matrix(operation, args.weight)?;
        let scale = self.weights.vector(operation, args.norm)?;
        args.check(&self.step_shape(), scale.shape(), weight.shape())?;
        self.norm(self.sum(operation, &args.x)?, scale, args.eps, true)?;
        let (logits, tokens) = (self.sum(operation, &args.logits)?, self.step.shape.outputs);
        let LogitsPlace { address: out, stride: out_stride } = self.logits_place(args, logits);
        let (x, bias, then) = (self.memory.at.normed, None, Then::Logits);
        let norms = Norms::default();
        let product = Product { x, tokens, weight, bias, then, out, out_stride, norms };
        self.multiply_head(&product, args.first_token)?;
        self.gather_logits(args, logits)
    }

    fn masks(&mut self, masks: Vec<Mask>) -> Result<(), BackendError> {
        self.step.give_masks(&masks)
    }

    fn sample(&mut self, args: &SampleArgs) -> Result<(), BackendError> {
        args.check(&self.step_shape())?;
        check_masked("sample", &self.step.batch, self.step.has_masks)?;
        let logits = self.sum("sample", &args.logits)?;
        self.draw(args, logits)
    }

    fn all_reduce(&mut self, x: Tensor) -> Result<(), BackendError> {
        let address = self.sum("all_reduce", &x)?;
        self.sum_over_ranks("all_reduce", address, &x)
    }

    fn commit(&mut self) -> Result<Ticket, BackendError> {
        check_masked("commit", &self.step.batch, self.step.has_masks)?;
        if !self.step.is_replayed {
            self.launch_finish()?;
        }
        self.mark_end()
    }

    fn is_done(&mut self, ticket: Ticket) -> Result<bool, BackendError> {
        self.is_passed(ticket)
    }

    fn collect(&mut self, ticket: Ticket) -> Result<StepOutput, BackendError> {
        self.take_outcome(ticket)
    }

    fn weight_bytes(&self, weight: Weight) -> Option<u64> {
        self.weights.get("weight_bytes", weight).ok().map(|placed| placed.bytes() as u64)
    }

    fn stamp(&mut self) -> Result<(), BackendError> {
        self.launch_stamp()
    }

    fn launched(&mut self) -> Vec<&'static str> {
        self.device.take_names()
    }

    fn peaks(&mut self) -> Result<Option<Peaks>, BackendError> {
        self.measure_peaks().map(Some)
    }

    fn recordings(&self) -> Vec<usize> {
        self.wanted_recordings()
    }

    fn begin_recording(&mut self, rows: usize) -> Result<Arc<Batch>, BackendError> {
        self.start_recording(rows)
    }

    fn end_recording(&mut self) -> Result<(), BackendError> {
        self.stop_recording()
    }

    fn rehearsal(&self) -> Option<Batch> {
        rehearsal(&self.step.plan)
    }

    fn notes(&self) -> Vec<String> {
        self.general_note().into_iter().collect()
    }

    fn ledger(&self) -> Vec<(String, u64)> {
        self.all_lines()
    }

    fn read(&mut self, x: Tensor) -> Result<Vec<f32>, BackendError> {
        let width = if x.kind == Kind::Sum { 4 } else { Half::BYTES };
        let mut bytes = vec![0; x.len() * width];
        self.memory.arena.read(4 * x.offset, &mut bytes, &self.device.stream)?;
        let half = |pair: &[u8; 2]| match self.settings.half {
            Half::Bf16 => bf16::from_le_bytes(*pair).to_f32(),
            Half::F16 => f16::from_le_bytes(*pair).to_f32(),
        };
        Ok(match x.kind {
            Kind::Sum => bytes.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect(),
            Kind::Inner => bytes.as_chunks::<2>().0.iter().map(half).collect(),
        })
    }
}

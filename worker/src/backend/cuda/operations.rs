//! The backend's operations: contracts checked, components called in the order of the step. And the
//! capture of their CUDA graphs, and the clock between them.

use std::sync::Arc;

use binfer_kernels::list;
use binfer_kernels::skinny_gemm::SkinnyGemmConfig;
use binfer_proto::Mask;

use super::attention::AttentionCall;
use super::attention::config::AttentionConfig;
use super::attention::latent_config::LatentConfig;
use super::cuda_backend::{CudaBackend, StepParts};
use super::formats::half::Half;
use super::gemm::config::{GemmConfig, LmHeadConfig};
use super::gemm::desc::GemmCall;
use super::gemm::lm_head::LogitStatistics;
use super::graphs::placeholder_batch;
use super::launch::{LaunchShape, to_u32};
use super::moe::ExpertsConfig;
use super::sampling::{Logits, tiles_per_row};
use super::warmup::warmup;
use crate::backend::args::{
    AttendArgs, AttendLatentArgs, EmbedArgs, HeadArgs, LinearOutArgs, MoeArgs, NormLinearArgs,
    SampleArgs, Tensor, TensorKind,
};
use crate::backend::check_batch::{check_batch, check_masked, check_masks};
use crate::backend::{
    Backend, BackendError, DeviceClock, GraphCapture, StepMode, StepOutcome, Ticket,
};
use crate::batch::Batch;

impl CudaBackend {
    /// The step's first kernel is enqueued, and components have nothing left of the step before.
    fn begin_launches(&mut self) -> Result<(), BackendError> {
        let StepParts { on, steps, gemms, attention, sampling, .. } = self.parts();
        gemms.begin_step();
        attention.begin_step();
        sampling.begin_step();
        steps.launch_apply(&on)
    }

    fn launch_finish(&mut self) -> Result<(), BackendError> {
        let StepParts { on, steps, gemms, sampling, .. } = self.parts();
        steps.launch_finish(&on, (gemms.places.normed, sampling.places.sampled))
    }

    fn note_gemm(&mut self, gemm: &GemmCall, config: GemmConfig) {
        if config == GemmConfig::Reference {
            let (rows, cols) = (gemm.weight.rows, gemm.weight.cols);
            self.note_slow(|| format!("gemms with weights [{rows}, {cols}]"));
        }
    }

    /// Copies activations to the host: for tests, not for steps.
    pub fn read(&self, x: Tensor) -> Result<Vec<f32>, BackendError> {
        let width = if x.kind == TensorKind::Sum { 4 } else { Half::BYTES };
        let mut bytes = vec![0; x.len() * width];
        self.memory.arena.read(4 * x.offset, &mut bytes, &self.device.stream)?;
        let half = self.device.half;
        Ok(match x.kind {
            TensorKind::Sum => bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect(),
            TensorKind::Inner => bytes.as_chunks().0.iter().map(|x| half.to_f32(*x)).collect(),
        })
    }
}

impl Backend for CudaBackend {
    fn upload(&mut self, batch: Arc<Batch>) -> Result<StepMode, BackendError> {
        check_batch(&batch, &self.steps.layout)?;
        self.graphs.give_up();
        let slot = self.steps.begin(Arc::clone(&batch), self.graphs.shape_of(&batch))?;
        if batch.masked {
            self.sampling.masks.expect(slot)?;
        }
        self.collectives.ranks.step_begins();
        let way = (&self.device.stream, &self.collectives.ranks);
        self.sampling.open_slots(&batch.opened, way)?;
        match self.graphs.launch(self.steps.shape, &self.device.stream)? {
            Some(stamps) => self.steps.is_done_by_graph(stamps),
            None => self.begin_launches()?,
        }
        Ok(self.steps.mode)
    }

    fn embed(&mut self, args: &EmbedArgs) -> Result<(), BackendError> {
        let params = self.operands().embed(args)?;
        let on = self.launcher();
        on.device.launch(list::EMBED, [on.shape.tokens, 1, 1], &params)?;
        self.collectives.sum(&on, "embed", (params.out, &args.out))
    }

    fn norm_linear(&mut self, args: &NormLinearArgs) -> Result<(), BackendError> {
        let (norm, gemm) = self.operands().norm_linear(args)?;
        let StepParts { on, gemms, .. } = self.parts();
        let config = gemms.norm_then_gemm(&on, &norm, &gemm)?;
        self.note_gemm(&gemm, config);
        Ok(())
    }

    fn attend(&mut self, args: &AttendArgs) -> Result<(), BackendError> {
        let (qkv, out, vectors) = self.operands().attend(args)?;
        let batch = Arc::clone(&self.steps.batch);
        let call = AttentionCall { args, vectors, qkv, out, rows: &batch.rows };
        let StepParts { on, attention, .. } = self.parts();
        let whose = if on.shape.mode == StepMode::Graph { "" } else { "prompts' " };
        if attention.launch(&on, &call)? == AttentionConfig::Reference {
            let dim = args.head_dim;
            self.note_slow(|| format!("{whose}attention with heads of {dim} elements"));
        }
        Ok(())
    }

    fn attend_latent(&mut self, args: &AttendLatentArgs) -> Result<(), BackendError> {
        let batch = Arc::clone(&self.steps.batch);
        let call = self.operands().attend_latent(args, &batch.rows)?;
        let StepParts { on, attention, .. } = self.parts();
        if attention.launch_latent(&on, &call)? == LatentConfig::Reference {
            let dim = args.latent_dim;
            self.note_slow(|| format!("attention over latent vectors of {dim} elements"));
        }
        Ok(())
    }

    fn moe(&mut self, args: &MoeArgs) -> Result<(), BackendError> {
        let ranks = &self.collectives.ranks;
        let operands = self.operands();
        let mut call = operands.moe(args, ranks.rank() == 0, self.moe.places.logits)?;
        // With several ranks, what is normed next is not there before the sum.
        let next = args.next.as_ref().filter(|_| !ranks.are_several());
        call.next = next.map(|next| operands.norm_linear(next)).transpose()?;
        let StepParts { on, gemms, moe, collectives, .. } = self.parts();
        let config = moe.launch(&on, gemms, &call)?;
        collectives.sum(&on, "moe", (call.out, &args.out))?;
        if config == ExpertsConfig::Reference {
            let (experts, top_k) = (args.router.experts, args.router.routing.top_k);
            self.note_slow(|| format!("mixtures of {experts} experts, {top_k} a token"));
        }
        Ok(())
    }

    fn linear_out(&mut self, args: &LinearOutArgs) -> Result<(), BackendError> {
        let ranks = &self.collectives.ranks;
        let is_first = ranks.rank() == 0;
        let operands = self.operands();
        let gemm = operands.linear_out(args, is_first)?;
        // With several ranks, what is normed next is not there before the sum.
        let next = args.next.as_ref().filter(|_| !ranks.are_several());
        let next = next.map(|next| operands.norm_linear(next)).transpose()?;
        if is_first && args.residual != args.out {
            let (to, from) = (4 * args.out.offset, 4 * args.residual.offset);
            let bytes = 4 * args.residual.len();
            self.memory.arena.copy_within(to, from, bytes, &self.device.stream)?;
        }
        let StepParts { on, gemms, collectives, .. } = self.parts();
        let config = gemms.gemm(&on, &gemm, next)?;
        collectives.sum(&on, "linear_out", (gemm.out, &args.out))?;
        self.note_gemm(&gemm, config);
        Ok(())
    }

    fn head(&mut self, args: &HeadArgs) -> Result<(), BackendError> {
        let place = |logits| self.collectives.logits_place(&self.launcher(), args, logits);
        let (norm, gemm, logits) = self.operands().head(args, place)?;
        let vocab = self.steps.layout.vocab;
        let statistics = LogitStatistics {
            tiles: self.sampling.places.tiles,
            tiles_per_row: tiles_per_row(vocab),
            vocab: to_u32(vocab),
            first_token: to_u32(args.first_token),
        };
        let StepParts { on, gemms, sampling, collectives, .. } = self.parts();
        let is_sharded = collectives.ranks.are_several();
        let config = gemms.lm_head(&on, (&norm, &gemm), &statistics, is_sharded)?;
        collectives.gather_logits(&on, args, logits)?;
        sampling.head_partials = match config {
            LmHeadConfig::Statistics(SkinnyGemmConfig { blocks, .. }) => blocks,
            LmHeadConfig::Logits(_) => 0,
        };
        if let LmHeadConfig::Logits(config) = config {
            self.note_gemm(&gemm, config);
        }
        Ok(())
    }

    fn masks(&mut self, masks: Vec<Mask>) -> Result<(), BackendError> {
        let steps = &mut self.steps;
        check_masks(&masks, (&steps.batch, steps.layout.vocab), steps.has_masks)?;
        self.sampling.masks.give(steps.last_slot(), &masks)?;
        steps.has_masks = true;
        Ok(())
    }

    fn sample(&mut self, args: &SampleArgs) -> Result<(), BackendError> {
        let address = self.operands().sample(args)?;
        check_masked("sample", &self.steps.batch, self.steps.has_masks)?;
        let logprobs = self.steps.logprobs_address()?;
        let logits = Logits { address, vocab: args.logits.cols, logprobs };
        self.sampling.launch(&self.launcher(), logits)
    }

    fn commit(&mut self) -> Result<Ticket, BackendError> {
        check_masked("commit", &self.steps.batch, self.steps.has_masks)?;
        if self.steps.mode == StepMode::Eager {
            self.launch_finish()?;
        }
        self.steps.mark_end(&self.device.stream)
    }

    fn is_done(&mut self, ticket: Ticket) -> Result<bool, BackendError> {
        self.steps.is_passed(ticket, &self.collectives.ranks)
    }

    fn collect(&mut self, ticket: Ticket) -> Result<StepOutcome, BackendError> {
        self.steps.take_outcome(ticket, &self.collectives.ranks)
    }
}

impl GraphCapture for CudaBackend {
    fn graph_buckets(&mut self) -> Vec<usize> {
        self.graphs.wanted()
    }

    fn begin_capture(&mut self, rows: usize) -> Result<Arc<Batch>, BackendError> {
        let batch = Arc::new(placeholder_batch(rows));
        let shape = LaunchShape::of_bucket(to_u32(rows));
        self.steps.begin_captured(Arc::clone(&batch), shape);
        self.graphs.begin(shape.rows, &self.device.stream)?;
        self.begin_launches()?;
        Ok(batch)
    }

    /// With the first graph, all gemms of the model are known.
    fn end_capture(&mut self) -> Result<(), BackendError> {
        self.launch_finish()?;
        self.graphs.end(&self.device, &mut self.ledger, self.steps.stamps())?;
        let scratch = self.memory.arena.address();
        self.gemms.prepare_library(&self.device, &mut self.ledger, scratch)
    }

    fn warmup(&mut self) -> Option<Batch> {
        warmup(&self.steps.layout)
    }
}

impl DeviceClock for CudaBackend {
    fn stamp(&mut self) -> Result<(), BackendError> {
        let StepParts { on, steps, .. } = self.parts();
        steps.launch_stamp(&on)
    }

    fn launched(&mut self) -> Vec<&'static str> {
        self.device.take_names()
    }
}

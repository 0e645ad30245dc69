//! The trait's operations: those of the backend within, with stamps between them.

use std::sync::Arc;

use binfer_proto::Mask;
use binfer_shard::{Checkpoint, LocalTensor};

use super::cost::{Counts, Work};
use super::profile::Profile;
use super::trace::Trace;
use super::{Pending, STAMPS_OF_LAYER, STAMPS_OF_STEP, Timed};
use crate::backend::args::{
    AttendArgs, EmbedArgs, HeadArgs, LinearOutArgs, NormLinearArgs, SampleArgs, Tensor,
};
use crate::backend::{
    Abort, Backend, BackendError, MemoryPlan, StepMode, StepOutput, Ticket, Weight,
};
use crate::batch::Batch;

impl Backend for Timed {
    fn load(
        &mut self,
        source: &Checkpoint,
        tensors: &[LocalTensor],
        done: &mut dyn FnMut(u64),
    ) -> Result<Vec<Weight>, BackendError> {
        let weights = self.inner.load(source, tensors, done)?;
        self.learn(tensors, &weights);
        Ok(weights)
    }

    fn invent(
        &mut self,
        tensors: &[LocalTensor],
        done: &mut dyn FnMut(u64),
    ) -> Result<Vec<Weight>, BackendError> {
        let weights = self.inner.invent(tensors, done)?;
        self.learn(tensors, &weights);
        Ok(weights)
    }

    fn weight_bytes(&self, weight: Weight) -> Option<u64> {
        self.inner.weight_bytes(weight)
    }

    fn comm_id(&mut self, world: usize) -> Result<Vec<u8>, BackendError> {
        self.inner.comm_id(world)
    }

    fn join(&mut self, id: &[u8], rank: usize, world: usize) -> Result<Abort, BackendError> {
        self.inner.join(id, rank, world)
    }

    fn kv_bytes_max(&self, plan: &MemoryPlan) -> Result<Option<u64>, BackendError> {
        self.inner.kv_bytes_max(plan)
    }

    fn kv_layout(&self) -> &'static str {
        self.inner.kv_layout()
    }

    fn allocate(&mut self, plan: &MemoryPlan) -> Result<(), BackendError> {
        let stamps_max = STAMPS_OF_LAYER * plan.kv.len() + STAMPS_OF_STEP;
        self.inner.allocate(&MemoryPlan { stamps_max, ..plan.clone() })
    }

    fn upload(&mut self, batch: Arc<Batch>) -> Result<StepMode, BackendError> {
        self.begin();
        self.batch = Arc::clone(&batch);
        let begun = self.inner.upload(batch)?;
        if begun == StepMode::Graph {
            let rows = self.batch.rows.len();
            self.replayed = self.recorded.range(rows..).next().map(|(_, made)| Arc::clone(made));
        }
        Ok(begun)
    }

    fn embed(&mut self, args: &EmbedArgs) -> Result<(), BackendError> {
        self.run("embed".to_owned(), Work::Other, |inner| inner.embed(args))
    }

    fn norm_linear(&mut self, args: &NormLinearArgs) -> Result<(), BackendError> {
        let (name, work) = (self.name(args.weight), self.product(args.weight));
        self.run(name, work, |inner| inner.norm_linear(args))
    }

    fn attend(&mut self, args: &AttendArgs) -> Result<(), BackendError> {
        let name = format!("layers.{}.attn.attend", args.layer);
        let work = Work::Attend {
            heads: args.heads as u64,
            kv_heads: args.kv_heads as u64,
            head_dim: args.head_dim as u64,
            window: args.window,
            element_bytes: self.kv_element_bytes,
        };
        self.run(name, work, |inner| inner.attend(args))
    }

    fn linear_out(&mut self, args: &LinearOutArgs) -> Result<(), BackendError> {
        let (name, work) = (self.name(args.weight), self.product(args.weight));
        self.run(name, work, |inner| inner.linear_out(args))
    }

    fn head(&mut self, args: &HeadArgs) -> Result<(), BackendError> {
        let work = match self.product(args.weight) {
            Work::Product { elements, bytes } => Work::Head { elements, bytes },
            other => other,
        };
        self.run("head".to_owned(), work, |inner| inner.head(args))
    }

    fn masks(&mut self, masks: Vec<Mask>) -> Result<(), BackendError> {
        self.inner.masks(masks)
    }

    fn sample(&mut self, args: &SampleArgs) -> Result<(), BackendError> {
        let work = Work::Sample { vocab: args.logits.cols as u64 };
        self.run("sample".to_owned(), work, |inner| inner.sample(args))
    }

    fn commit(&mut self) -> Result<Ticket, BackendError> {
        let replayed = self.replayed.take();
        if replayed.is_none() {
            self.end()?;
        }
        let ticket = self.inner.commit()?;
        self.leave();
        let operations = replayed.unwrap_or_else(|| Arc::new(self.operations.clone()));
        self.pending.push_back(Pending { operations, counts: Counts::of(&self.batch) });
        Ok(ticket)
    }

    fn is_done(&mut self, ticket: Ticket) -> Result<bool, BackendError> {
        self.inner.is_done(ticket)
    }

    fn collect(&mut self, ticket: Ticket) -> Result<StepOutput, BackendError> {
        let output = self.inner.collect(ticket)?;
        let Some(step) = self.pending.pop_front() else { return Ok(output) };
        if let Some(profile) = &mut self.profile {
            profile.add(&step.operations, &step.counts, &output.stamps_ns);
        }
        if let Some(trace) = &mut self.trace
            && let Err(error) =
                trace.add(ticket.0, &step.operations, &step.counts, &output.stamps_ns)
        {
            // A disk that is full ends the trace, not the requests.
            let rest = "the rest of the steps is not in it";
            binfer_console::message(format_args!("--trace: {error}; {rest}"));
            self.trace = None;
        }
        Ok(output)
    }

    fn graph_buckets(&self) -> Vec<usize> {
        self.inner.graph_buckets()
    }

    fn begin_capture(&mut self, rows: usize) -> Result<Arc<Batch>, BackendError> {
        self.begin();
        self.recording = Some(rows);
        self.inner.begin_capture(rows)
    }

    fn end_capture(&mut self) -> Result<(), BackendError> {
        self.end()?;
        self.inner.end_capture()?;
        self.leave();
        if let Some(rows) = self.recording.take() {
            self.recorded.insert(rows, Arc::new(std::mem::take(&mut self.operations)));
        }
        Ok(())
    }

    fn ledger(&self) -> Vec<(String, u64)> {
        self.inner.ledger()
    }

    fn notes(&self) -> Vec<String> {
        self.inner.notes()
    }

    fn report(&mut self) -> String {
        // Readers of the format accept a trace that is cut off.
        if let Some(Err(error)) = self.trace.as_mut().map(Trace::end) {
            binfer_console::message(format_args!("--trace: {error}; the last steps are not in it"));
        }
        self.profile.as_ref().map_or_else(String::new, Profile::table)
    }

    fn read(&mut self, x: Tensor) -> Result<Vec<f32>, BackendError> {
        self.inner.read(x)
    }
}

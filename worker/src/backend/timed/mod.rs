//! A backend around another: it learns from the device how long each operation took.
//!
//! The device notes the time between operations ([`Backend::stamp`]), in recordings too, so what is
//! timed is what runs; only the overlap of neighbouring kernels is lost. Nothing of this exists unless
//! `--profile` or `--trace` asks for it. Deliberately absent: arithmetic of the model.

mod cost;
mod profile;
mod table;
mod trace;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use binfer_shard::{LocalTensor, Source};

use super::args::{
    AttendArgs, EmbedArgs, HeadArgs, LinearOutArgs, NormLinearArgs, SampleArgs, Tensor,
};
use super::{Abort, Backend, BackendError, Begun, MemoryPlan, StepOutput, Ticket, Weight};
use crate::batch::Batch;
use cost::{Counts, Operation, Work};
use profile::Profile;
use trace::Trace;

/// Operations of a layer, and those outside of layers with the stamps around them: at most.
const STAMPS_OF_LAYER: usize = 8;
const STAMPS_OF_STEP: usize = 16;

/// The kernel that notes times is none of an operation's.
const STAMP: &str = "stamp";

/// What is wanted.
#[derive(Clone, Debug, Default)]
pub struct TimedSettings {
    /// A table of operations at the end.
    pub profile: bool,
    /// A file that gets every operation of every step.
    pub trace: Option<PathBuf>,
    /// Rank, for the trace.
    pub rank: u32,
    /// Bytes of an element of the cache.
    pub kv_element_bytes: u64,
}

/// A weight as operations know it.
struct Known {
    name: String,
    elements: u64,
    bytes: u64,
}

/// A step that was committed.
struct Pending {
    operations: Arc<Vec<Operation>>,
    counts: Counts,
}

/// See the module.
pub struct Timed {
    inner: Box<dyn Backend>,
    kv_element_bytes: u64,
    weights: Vec<Known>,
    profile: Option<Profile>,
    trace: Option<Trace>,
    batch: Arc<Batch>,
    /// Of the step, or recording, that is being enqueued.
    operations: Vec<Operation>,
    replayed: Option<Arc<Vec<Operation>>>,
    /// By rows.
    recorded: BTreeMap<usize, Arc<Vec<Operation>>>,
    recording: Option<usize>,
    pending: VecDeque<Pending>,
}

impl Timed {
    /// Around a backend without weights.
    ///
    /// # Errors
    /// When the trace's file cannot be created, or the device fails at being measured.
    pub fn new(mut inner: Box<dyn Backend>, settings: TimedSettings) -> Result<Self, BackendError> {
        let create = |path: PathBuf| Trace::create(&path, settings.rank);
        let trace = settings.trace.map(create).transpose();
        let trace = trace.map_err(|source| BackendError::Io { operation: "--trace", source })?;
        let profile = if settings.profile { Some(Profile::new(inner.peaks()?)) } else { None };
        Ok(Self {
            inner,
            kv_element_bytes: settings.kv_element_bytes,
            weights: Vec::new(),
            profile,
            trace,
            batch: Arc::default(),
            operations: Vec::new(),
            replayed: None,
            recorded: BTreeMap::new(),
            recording: None,
            pending: VecDeque::new(),
        })
    }

    fn learn(&mut self, tensors: &[LocalTensor], weights: &[Weight]) {
        for (tensor, weight) in tensors.iter().zip(weights) {
            let part =
                |part: &binfer_shard::LocalPart| u64::from(part.rows) * part.inputs.len() as u64;
            self.weights.push(Known {
                name: tensor.name.clone(),
                elements: tensor.parts.iter().map(part).sum(),
                bytes: self.inner.weight_bytes(*weight).unwrap_or(tensor.bytes()),
            });
        }
    }

    fn name(&self, weight: Weight) -> String {
        self.weights.get(weight.0 as usize).map_or_else(String::new, |known| known.name.clone())
    }

    fn product(&self, weight: Weight) -> Work {
        let known = self.weights.get(weight.0 as usize);
        known.map_or(Work::Other, |known| Work::Product {
            elements: known.elements,
            bytes: known.bytes,
        })
    }

    /// Runs an operation between two stamps, the second of which is the next one's first.
    fn run(
        &mut self,
        name: String,
        work: Work,
        call: impl FnOnce(&mut dyn Backend) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        self.enter(name, work)?;
        call(&mut *self.inner)
    }

    fn enter(&mut self, name: String, work: Work) -> Result<(), BackendError> {
        self.leave();
        self.inner.stamp()?;
        self.operations.push(Operation { name, work, kernels: Vec::new() });
        Ok(())
    }

    /// What was launched belongs to the operation entered last.
    fn leave(&mut self) {
        let launched = self.inner.launched();
        let launched = launched.into_iter().filter(|name| *name != STAMP);
        if let Some(last) = self.operations.last_mut() {
            last.kernels.extend(launched);
        }
    }

    /// The first operation of a step, whose stamp the device takes by itself.
    fn begin(&mut self) {
        self.operations.clear();
        let name = "step.begin".to_owned();
        self.operations.push(Operation { name, work: Work::Other, kernels: Vec::new() });
    }

    /// The last one; the device takes the stamp of its end.
    fn end(&mut self) -> Result<(), BackendError> {
        self.enter("step.end".to_owned(), Work::Other)
    }
}

impl Backend for Timed {
    fn load(
        &mut self,
        source: &Source,
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

    fn upload(&mut self, batch: Arc<Batch>) -> Result<Begun, BackendError> {
        self.begin();
        self.batch = Arc::clone(&batch);
        let begun = self.inner.upload(batch)?;
        if begun == Begun::Replayed {
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

    fn sample(&mut self, args: &SampleArgs) -> Result<(), BackendError> {
        let work = Work::Sample { vocab: args.logits.cols as u64 };
        self.run("sample".to_owned(), work, |inner| inner.sample(args))
    }

    fn all_reduce(&mut self, x: Tensor) -> Result<(), BackendError> {
        self.run("all_reduce".to_owned(), Work::Other, |inner| inner.all_reduce(x))
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
        if let Some(trace) = &mut self.trace {
            let written = trace.add(ticket.0, &step.operations, &step.counts, &output.stamps_ns);
            written.map_err(|source| BackendError::Io { operation: "--trace", source })?;
        }
        Ok(output)
    }

    fn recordings(&self) -> Vec<usize> {
        self.inner.recordings()
    }

    fn begin_recording(&mut self, rows: usize) -> Result<Arc<Batch>, BackendError> {
        self.begin();
        self.recording = Some(rows);
        self.inner.begin_recording(rows)
    }

    fn end_recording(&mut self) -> Result<(), BackendError> {
        self.end()?;
        self.inner.end_recording()?;
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
        // A trace that could not be flushed is cut off, and readers of the format know that.
        let _ = self.trace.as_mut().map(Trace::end);
        self.profile.as_ref().map_or_else(String::new, Profile::table)
    }

    fn read(&mut self, x: Tensor) -> Result<Vec<f32>, BackendError> {
        self.inner.read(x)
    }
}

#[cfg(test)]
mod tests;

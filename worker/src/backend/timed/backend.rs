//! The operations of the device within, with stamps between them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use binfer_proto::Mask;

use super::cost::{Counts, OperationWork, TimedOperation};
use super::step_times::StepTimes;
use crate::backend::args::{
    AttendArgs, AttendLatentArgs, EmbedArgs, HeadArgs, LinearOutArgs, MoeArgs, NormLinearArgs,
    SampleArgs,
};
use crate::backend::error::BackendError;
use crate::backend::graph_capture::GraphCapture;
use crate::backend::operations::Backend;
use crate::backend::rank_device::RankDevice;
use crate::backend::step_output::{StepMode, StepOutcome, Ticket};
use crate::batch::Batch;

/// The kernel that notes times belongs to no operation.
const STAMP: &str = "stamp";

/// A step that was committed.
struct CommittedStep {
    operations: Arc<Vec<TimedOperation>>,
    counts: Counts,
}

/// A device whose operations are timed.
pub struct TimedBackend {
    inner: Box<dyn RankDevice>,
    times: StepTimes,
    batch: Arc<Batch>,
    /// Operations of the step or capture that is being enqueued.
    operations: Vec<TimedOperation>,
    /// Operations of the graph that does the step under way.
    replayed: Option<Arc<Vec<TimedOperation>>>,
    /// Operations of graphs, by rows.
    captured: BTreeMap<usize, Arc<Vec<TimedOperation>>>,
    /// Rows of the capture under way.
    capturing: Option<usize>,
    committed: VecDeque<CommittedStep>,
}

impl TimedBackend {
    /// Times a device that was allocated with [`StepTimes::with_stamps`].
    pub fn new(inner: Box<dyn RankDevice>, times: StepTimes) -> Self {
        Self {
            inner,
            times,
            batch: Arc::default(),
            operations: Vec::new(),
            replayed: None,
            captured: BTreeMap::new(),
            capturing: None,
            committed: VecDeque::new(),
        }
    }

    /// The device within.
    pub fn device(&self) -> &dyn RankDevice {
        &*self.inner
    }

    /// Where captures go; `None` where the device has no CUDA graphs.
    pub fn graphs(&mut self) -> Option<&mut dyn GraphCapture> {
        self.inner.graphs()?;
        Some(self)
    }

    /// What was measured, for people.
    pub fn report(&mut self) -> String {
        self.times.report()
    }

    /// The graphs of the device within. It has some where [`Self::graphs`] gave this backend out.
    fn inner_graphs(&mut self) -> Result<&mut dyn GraphCapture, BackendError> {
        self.inner.graphs().ok_or_else(|| BackendError::Args {
            operation: "capture",
            cause: "this device has no graphs".to_owned(),
        })
    }

    /// Runs an operation between two stamps, the second of which is the next one's first.
    fn run(
        &mut self,
        name: String,
        work: OperationWork,
        call: impl FnOnce(&mut dyn Backend) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        self.enter(name, work)?;
        call(&mut *self.inner)
    }

    fn enter(&mut self, name: String, work: OperationWork) -> Result<(), BackendError> {
        self.leave();
        self.inner.stamp()?;
        self.operations.push(TimedOperation { name, work, kernels: Vec::new() });
        Ok(())
    }

    /// Gives the operation entered last what was launched since.
    fn leave(&mut self) {
        let launched = self.inner.launched();
        let launched = launched.into_iter().filter(|name| *name != STAMP);
        if let Some(last) = self.operations.last_mut() {
            last.kernels.extend(launched);
        }
    }

    /// Enters the first operation of a step. The device takes its stamp by itself.
    fn begin(&mut self) {
        self.operations.clear();
        let name = "step.begin".to_owned();
        self.operations.push(TimedOperation {
            name,
            work: OperationWork::Other,
            kernels: Vec::new(),
        });
    }

    /// Enters the last operation of a step. The device takes the stamp of its end by itself.
    fn end(&mut self) -> Result<(), BackendError> {
        self.enter("step.end".to_owned(), OperationWork::Other)
    }
}

impl Backend for TimedBackend {
    fn upload(&mut self, batch: Arc<Batch>) -> Result<StepMode, BackendError> {
        self.begin();
        self.batch = Arc::clone(&batch);
        let mode = self.inner.upload(batch)?;
        if mode == StepMode::Graph {
            let rows = self.batch.rows.len();
            self.replayed = self.captured.range(rows..).next().map(|(_, made)| Arc::clone(made));
        }
        Ok(mode)
    }

    fn embed(&mut self, args: &EmbedArgs) -> Result<(), BackendError> {
        self.run("embed".to_owned(), OperationWork::Other, |inner| inner.embed(args))
    }

    fn norm_linear(&mut self, args: &NormLinearArgs) -> Result<(), BackendError> {
        let (name, work) = (self.times.name(args.weight), self.times.gemm(args.weight));
        self.run(name, work, |inner| inner.norm_linear(args))
    }

    fn attend(&mut self, args: &AttendArgs) -> Result<(), BackendError> {
        let name = format!("layers.{}.attn.attend", args.layer);
        let work = OperationWork::Attend {
            heads: args.heads as u64,
            kv_heads: args.kv_heads as u64,
            head_dim: args.head_dim as u64,
            window: args.window,
            element_bytes: self.times.kv_element_bytes(),
        };
        self.run(name, work, |inner| inner.attend(args))
    }

    fn attend_latent(&mut self, args: &AttendLatentArgs) -> Result<(), BackendError> {
        let name = format!("layers.{}.attn.attend", args.layer);
        let work = OperationWork::AttendLatent {
            heads: args.heads as u64,
            latent_dim: args.latent_dim as u64,
            rope_dim: args.rope.dims.into(),
            element_bytes: self.times.kv_element_bytes(),
        };
        self.run(name, work, |inner| inner.attend_latent(args))
    }

    fn moe(&mut self, args: &MoeArgs) -> Result<(), BackendError> {
        let gemm = |weight| self.times.gemm(weight);
        let shared = args.shared.map(|shared| [gemm(shared.gate_up), gemm(shared.down)]);
        let experts = [gemm(args.experts.gate_up), gemm(args.experts.down)];
        let work = OperationWork::Moe {
            every_token: [gemm(args.router.weight)]
                .into_iter()
                .chain(shared.into_iter().flatten())
                .map(OperationWork::weight)
                .sum(),
            experts: experts.into_iter().map(OperationWork::weight).sum(),
            held: args.experts.count as u64,
            of: u32::try_from(args.router.experts).unwrap_or(u32::MAX),
            top_k: args.router.routing.top_k,
        };
        let router = self.times.name(args.router.weight);
        let name = router.replace("ffn.router", "ffn.moe");
        self.run(name, work, |inner| inner.moe(args))
    }

    fn linear_out(&mut self, args: &LinearOutArgs) -> Result<(), BackendError> {
        let (name, work) = (self.times.name(args.weight), self.times.gemm(args.weight));
        self.run(name, work, |inner| inner.linear_out(args))
    }

    fn head(&mut self, args: &HeadArgs) -> Result<(), BackendError> {
        let work = match self.times.gemm(args.weight) {
            OperationWork::Gemm { elements, bytes } => OperationWork::Head { elements, bytes },
            other => other,
        };
        self.run("head".to_owned(), work, |inner| inner.head(args))
    }

    fn masks(&mut self, masks: Vec<Mask>) -> Result<(), BackendError> {
        self.inner.masks(masks)
    }

    fn sample(&mut self, args: &SampleArgs) -> Result<(), BackendError> {
        let work = OperationWork::Sample { vocab: args.logits.cols as u64 };
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
        let counts = Counts::of(&self.batch);
        self.committed.push_back(CommittedStep { operations, counts });
        Ok(ticket)
    }

    fn is_done(&mut self, ticket: Ticket) -> Result<bool, BackendError> {
        self.inner.is_done(ticket)
    }

    fn collect(&mut self, ticket: Ticket) -> Result<StepOutcome, BackendError> {
        let output = self.inner.collect(ticket)?;
        if let Some(step) = self.committed.pop_front() {
            self.times.add(ticket, &step.operations, &step.counts, &output.stamps_ns);
        }
        Ok(output)
    }
}

impl GraphCapture for TimedBackend {
    fn graph_buckets(&mut self) -> Vec<usize> {
        self.inner.graphs().map_or_else(Vec::new, |graphs| graphs.graph_buckets())
    }

    fn begin_capture(&mut self, rows: usize) -> Result<Arc<Batch>, BackendError> {
        self.begin();
        self.capturing = Some(rows);
        self.inner_graphs()?.begin_capture(rows)
    }

    fn end_capture(&mut self) -> Result<(), BackendError> {
        self.end()?;
        self.inner_graphs()?.end_capture()?;
        self.leave();
        if let Some(rows) = self.capturing.take() {
            self.captured.insert(rows, Arc::new(std::mem::take(&mut self.operations)));
        }
        Ok(())
    }

    /// None, since the table would count it among the steps of clients.
    fn warmup(&mut self) -> Option<Batch> {
        None
    }
}

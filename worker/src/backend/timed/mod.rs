//! A backend around another: it learns from the device how long each operation took.
//!
//! The device notes the time between operations ([`Backend::stamp`]), in recordings too, so what is
//! timed is what runs; only the overlap of neighbouring kernels is lost. Nothing of this exists unless
//! `--profile` or `--trace` asks for it. Deliberately absent: arithmetic of the model.

mod backend;
mod cost;
mod profile;
mod table;
mod trace;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use binfer_shard::LocalTensor;

use super::{Backend, BackendError, Weight};
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

#[cfg(test)]
mod tests;

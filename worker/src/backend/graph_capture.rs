//! Capture of decode steps as CUDA graphs: what the engine calls before the first step.

use std::sync::Arc;

use super::error::BackendError;
use super::operations::Backend;
use crate::batch::Batch;

/// A device that can keep the operations of a step and do them again by itself.
pub trait GraphCapture: Backend {
    /// Numbers of decode rows that are worth a graph.
    fn graph_buckets(&mut self) -> Vec<usize>;
    /// Begins a capture: operations up to [`Self::end_capture`] are kept instead of run. They are
    /// to be those of the returned batch, a step of `rows` decode rows.
    fn begin_capture(&mut self, rows: usize) -> Result<Arc<Batch>, BackendError>;
    /// Ends the capture and keeps its graph for steps of its bucket.
    fn end_capture(&mut self) -> Result<(), BackendError>;
    /// A step to run once before the first one, where there is room for one. It runs what graphs do
    /// not hold, so that nothing runs for the first time while a client waits.
    fn warmup(&mut self) -> Option<Batch>;
}

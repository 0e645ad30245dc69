//! CUDA graphs: a stream's work captured instead of run, and graphs that are ready to run.
//!
//! Capture is thread-local: a call of this thread that could wait for the device, or that takes or
//! frees memory, fails while it captures. What other threads do, NCCL's above all, is their own.
#![allow(unsafe_code, reason = "part of the door, see mod.rs")]

use std::sync::Arc;

use cudarc::driver::sys;

use super::error::check;
use super::launch::{CudaStream, Queue};
use crate::backend::BackendError;

/// What a stream is given from here on is captured, until this ends or is dropped.
pub(in crate::backend::cuda) struct Capture {
    queue: Arc<Queue>,
    is_over: bool,
}

/// Which calls the capturing thread may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) enum CaptureMode {
    /// Calls that can be captured, or do nothing to the device.
    ThreadLocal,
    /// Calls that take memory, too: cuBLASLt loads its kernels when they are first used.
    Relaxed,
}

impl Capture {
    /// Begins to capture what `stream` is given.
    pub(in crate::backend::cuda) fn begin(
        stream: &CudaStream,
        mode: CaptureMode,
    ) -> Result<Self, BackendError> {
        let mode = match mode {
            CaptureMode::ThreadLocal => {
                sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
            }
            CaptureMode::Relaxed => sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED,
        };
        let queue = stream.queue();
        // SAFETY: a stream that exists.
        let status = unsafe { sys::cuStreamBeginCapture_v2(queue.raw(), mode) };
        check(status, "cuStreamBeginCapture")?;
        Ok(Self { queue, is_over: false })
    }

    /// Ends the capture, on the thread that began it.
    pub(in crate::backend::cuda) fn end(mut self) -> Result<Graph, BackendError> {
        self.stop()
    }

    fn stop(&mut self) -> Result<Graph, BackendError> {
        self.is_over = true;
        let mut graph = std::ptr::null_mut();
        // SAFETY: a place for a handle; the stream captures.
        let status = unsafe { sys::cuStreamEndCapture(self.queue.raw(), &raw mut graph) };
        check(status, "cuStreamEndCapture")?;
        Ok(Graph(graph))
    }
}

/// After a failure: the stream goes on, and what was captured is dropped.
impl Drop for Capture {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.stop();
        }
    }
}

/// Captured work (`cudaGraph_t`).
pub(in crate::backend::cuda) struct Graph(sys::CUgraph);

impl Graph {
    /// Makes the graph ready for the device, which takes memory.
    pub(in crate::backend::cuda) fn instantiate(
        self,
        stream: &CudaStream,
    ) -> Result<GraphExec, BackendError> {
        let mut exec = std::ptr::null_mut();
        // SAFETY: a place for a handle, a graph that exists; 0: no flags.
        let made = unsafe { sys::cuGraphInstantiateWithFlags(&raw mut exec, self.0, 0) };
        check(made, "cuGraphInstantiate")?;
        let graph = GraphExec(exec);
        // SAFETY: both exist.
        check(unsafe { sys::cuGraphUpload(exec, stream.raw()) }, "cuGraphUpload")?;
        Ok(graph)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: this value's; what was instantiated does not need it.
        let _ = unsafe { sys::cuGraphDestroy(self.0) };
    }
}

/// A graph that is ready to run (`cudaGraphExec_t`).
pub(in crate::backend::cuda) struct GraphExec(sys::CUgraphExec);

// SAFETY: driver handles may be used from any thread.
unsafe impl Send for GraphExec {}

impl GraphExec {
    /// Enqueues all of its work.
    pub(in crate::backend::cuda) fn launch(&self, stream: &CudaStream) -> Result<(), BackendError> {
        // SAFETY: both exist.
        check(unsafe { sys::cuGraphLaunch(self.0, stream.raw()) }, "cuGraphLaunch")
    }
}

impl Drop for GraphExec {
    fn drop(&mut self) {
        // SAFETY: made by `Graph::instantiate`, destroyed once.
        let _ = unsafe { sys::cuGraphExecDestroy(self.0) };
    }
}

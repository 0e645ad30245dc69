//! Work that is recorded instead of run, and recordings that are ready to run.
//!
//! Thread-local: a call of this thread that could wait for the device, or that takes or frees memory,
//! fails while it records. What other threads do, NCCL's above all, is their own.
#![allow(unsafe_code, reason = "part of the door, see mod.rs")]

use std::sync::Arc;

use cudarc::driver::sys;

use super::check;
use super::launch::{Queue, Stream};
use crate::backend::BackendError;

/// What a stream is given from here on is recorded, until this ends or is dropped.
pub(in crate::backend::cuda) struct Recording {
    queue: Arc<Queue>,
    is_over: bool,
}

/// Which calls of the recording thread are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) enum Calls {
    /// Those that can be recorded, or do nothing to the device.
    Recordable,
    /// Those that take memory, too: cuBLASLt loads its kernels when they are first used.
    All,
}

impl Recording {
    /// Begins.
    pub(in crate::backend::cuda) fn begin(
        stream: &Stream,
        calls: Calls,
    ) -> Result<Self, BackendError> {
        let mode = match calls {
            Calls::Recordable => sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
            Calls::All => sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED,
        };
        let queue = stream.queue();
        // SAFETY: a stream that exists.
        let status = unsafe { sys::cuStreamBeginCapture_v2(queue.raw(), mode) };
        check(status, "cuStreamBeginCapture")?;
        Ok(Self { queue, is_over: false })
    }

    /// Ends it, on the thread that began it.
    pub(in crate::backend::cuda) fn end(mut self) -> Result<Recorded, BackendError> {
        self.stop()
    }

    fn stop(&mut self) -> Result<Recorded, BackendError> {
        self.is_over = true;
        let mut graph = std::ptr::null_mut();
        // SAFETY: a place for a handle; the stream records.
        let status = unsafe { sys::cuStreamEndCapture(self.queue.raw(), &raw mut graph) };
        check(status, "cuStreamEndCapture")?;
        Ok(Recorded(graph))
    }
}

/// After a failure: the stream goes on, and what was recorded is dropped.
impl Drop for Recording {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.stop();
        }
    }
}

/// What was recorded.
pub(in crate::backend::cuda) struct Recorded(sys::CUgraph);

impl Recorded {
    /// Makes it ready for the device, which takes memory.
    pub(in crate::backend::cuda) fn ready(self, stream: &Stream) -> Result<Graph, BackendError> {
        let mut exec = std::ptr::null_mut();
        // SAFETY: a place for a handle, a graph that exists; 0: no flags.
        let made = unsafe { sys::cuGraphInstantiateWithFlags(&raw mut exec, self.0, 0) };
        check(made, "cuGraphInstantiate")?;
        let graph = Graph(exec);
        // SAFETY: both exist.
        check(unsafe { sys::cuGraphUpload(exec, stream.raw()) }, "cuGraphUpload")?;
        Ok(graph)
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        // SAFETY: this value's; what was instantiated does not need it.
        let _ = unsafe { sys::cuGraphDestroy(self.0) };
    }
}

/// Recorded work, ready to run.
pub(in crate::backend::cuda) struct Graph(sys::CUgraphExec);

// SAFETY: driver handles may be used from any thread.
unsafe impl Send for Graph {}

impl Graph {
    /// Enqueues all of it.
    pub(in crate::backend::cuda) fn replay(&self, stream: &Stream) -> Result<(), BackendError> {
        // SAFETY: both exist.
        check(unsafe { sys::cuGraphLaunch(self.0, stream.raw()) }, "cuGraphLaunch")
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `Recorded::ready`, destroyed once.
        let _ = unsafe { sys::cuGraphExecDestroy(self.0) };
    }
}

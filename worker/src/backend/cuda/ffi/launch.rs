//! Modules and their functions, streams, events, graphs.
#![allow(unsafe_code, reason = "part of the door, see mod.rs")]

use std::ffi::{CString, c_void};

use cudarc::driver::sys::{self, CUresult};

use super::{check, failed};
use crate::backend::BackendError;

/// Loaded machine code. Kept until the process ends, as its functions are.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cuda) struct Module(sys::CUmodule);

/// A kernel, ready to launch.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cuda) struct Function {
    raw: sys::CUfunction,
    threads: u32,
    shared_bytes: u32,
}

// SAFETY: driver handles may be used from any thread.
unsafe impl Send for Function {}

impl Module {
    /// Loads a cubin, or PTX that ends with 0.
    pub(in crate::backend::cuda) fn load(image: &[u8]) -> Result<Self, BackendError> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: a place for a handle; the image is a whole one of build.rs.
        let status = unsafe { sys::cuModuleLoadData(&raw mut raw, image.as_ptr().cast()) };
        check(status, "cuModuleLoadData")?;
        Ok(Self(raw))
    }

    /// The kernel of that name, to be launched with so many threads and bytes of shared memory.
    pub(in crate::backend::cuda) fn function(
        self,
        name: &str,
        threads: u32,
        shared_bytes: u32,
    ) -> Result<Function, BackendError> {
        let text = CString::new(name).map_err(|error| failed("kernel", error.to_string()))?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: a place for a handle, a string that ends with 0.
        let status = unsafe { sys::cuModuleGetFunction(&raw mut raw, self.0, text.as_ptr()) };
        check(status, "cuModuleGetFunction")?;
        if shared_bytes > 48 << 10 {
            let bytes = i32::try_from(shared_bytes).unwrap_or(i32::MAX);
            let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a function that exists.
            check(unsafe { sys::cuFuncSetAttribute(raw, which, bytes) }, "cuFuncSetAttribute")?;
        }
        Ok(Function { raw, threads, shared_bytes })
    }
}

/// How a kernel is launched.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cuda) struct Launch {
    /// Blocks.
    pub(in crate::backend::cuda) grid: [u32; 3],
    /// Neighbouring blocks that run at once and read each other's shared memory.
    pub(in crate::backend::cuda) cluster: u32,
    /// Bytes of shared memory; what the function was made with where absent.
    pub(in crate::backend::cuda) shared_bytes: Option<u32>,
    /// It may start before the kernel before it has ended, and waits by itself.
    pub(in crate::backend::cuda) dependent: bool,
}

/// A queue of the device's work, run in order.
pub(in crate::backend::cuda) struct Stream(sys::CUstream);

// SAFETY: driver handles may be used from any thread.
unsafe impl Send for Stream {}

impl Stream {
    pub(in crate::backend::cuda) fn new() -> Result<Self, BackendError> {
        let mut raw = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: a place for a handle; a context is current.
        check(unsafe { sys::cuStreamCreate(&raw mut raw, flags) }, "cuStreamCreate")?;
        Ok(Self(raw))
    }

    pub(super) fn raw(&self) -> sys::CUstream {
        self.0
    }

    /// Waits until all is done.
    pub(in crate::backend::cuda) fn synchronize(&self) -> Result<(), BackendError> {
        // SAFETY: a stream that exists.
        check(unsafe { sys::cuStreamSynchronize(self.0) }, "cuStreamSynchronize")
    }

    /// Enqueues a kernel with its one parameter. `Kernel<P>` says that `P` is the kernel's type.
    pub(in crate::backend::cuda) fn launch<P: Copy>(
        &self,
        function: &Function,
        launch: Launch,
        params: &P,
    ) -> Result<(), BackendError> {
        use sys::CUlaunchAttributeID as Id;
        // SAFETY: plain data, for which zeros are a value; the fields that count are set below.
        let mut attributes: [sys::CUlaunchAttribute; 2] = unsafe { std::mem::zeroed() };
        let mut count = 0;
        if launch.dependent {
            attributes[count].id = Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
            attributes[count].value.programmaticStreamSerializationAllowed = 1;
            count += 1;
        }
        if launch.cluster > 1 {
            attributes[count].id = Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            let dimension =
                sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: launch.cluster, y: 1, z: 1 };
            attributes[count].value.clusterDim = dimension;
            count += 1;
        }
        let [x, y, z] = launch.grid;
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: function.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared_bytes.unwrap_or(function.shared_bytes),
            hStream: self.0,
            attrs: attributes.as_mut_ptr(),
            numAttrs: if count == 2 { 2 } else { u32::from(count == 1) },
        };
        let mut pointers = [std::ptr::from_ref(params).cast_mut().cast::<c_void>()];
        // SAFETY: the driver copies the parameter, whose size the kernel knows, before it returns.
        let status = unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                function.raw,
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        check(status, "cuLaunchKernelEx")
    }

    /// From here on, work is recorded instead of run. Relaxed, since cuBLASLt loads its kernels when
    /// they are first used.
    pub(in crate::backend::cuda) fn begin_recording(&self) -> Result<(), BackendError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: a stream that exists.
        check(unsafe { sys::cuStreamBeginCapture_v2(self.0, mode) }, "cuStreamBeginCapture")
    }

    /// Ends the recording and makes it ready for the device.
    pub(in crate::backend::cuda) fn end_recording(&self) -> Result<Graph, BackendError> {
        let mut graph = std::ptr::null_mut();
        // SAFETY: a place for a handle; the stream records.
        check(unsafe { sys::cuStreamEndCapture(self.0, &raw mut graph) }, "cuStreamEndCapture")?;
        let mut exec = std::ptr::null_mut();
        // SAFETY: a place for a handle, a graph that exists; 0: no flags.
        let made = unsafe { sys::cuGraphInstantiateWithFlags(&raw mut exec, graph, 0) };
        // SAFETY: the graph is this function's; what was instantiated does not need it.
        let _ = unsafe { sys::cuGraphDestroy(graph) };
        check(made, "cuGraphInstantiate")?;
        let graph = Graph(exec);
        // SAFETY: both exist.
        check(unsafe { sys::cuGraphUpload(exec, self.0) }, "cuGraphUpload")?;
        Ok(graph)
    }

    /// Enqueues all that was recorded.
    pub(in crate::backend::cuda) fn replay(&self, graph: &Graph) -> Result<(), BackendError> {
        // SAFETY: both exist.
        check(unsafe { sys::cuGraphLaunch(graph.0, self.0) }, "cuGraphLaunch")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once; work in it is finished first.
        let _ = unsafe { sys::cuStreamDestroy_v2(self.0) };
    }
}

/// Recorded work.
pub(in crate::backend::cuda) struct Graph(sys::CUgraphExec);

// SAFETY: driver handles may be used from any thread.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `end_recording`, destroyed once.
        let _ = unsafe { sys::cuGraphExecDestroy(self.0) };
    }
}

/// A place in a stream that can be waited for.
pub(in crate::backend::cuda) struct Event(sys::CUevent);

// SAFETY: driver handles may be used from any thread.
unsafe impl Send for Event {}

impl Event {
    pub(in crate::backend::cuda) fn new() -> Result<Self, BackendError> {
        let mut raw = std::ptr::null_mut();
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: a place for a handle; a context is current.
        check(unsafe { sys::cuEventCreate(&raw mut raw, flags) }, "cuEventCreate")?;
        Ok(Self(raw))
    }

    /// Marks the end of what the stream was given so far.
    pub(in crate::backend::cuda) fn record(&self, stream: &Stream) -> Result<(), BackendError> {
        // SAFETY: both exist.
        check(unsafe { sys::cuEventRecord(self.0, stream.0) }, "cuEventRecord")
    }

    /// Whether the device has passed it.
    pub(in crate::backend::cuda) fn is_passed(&self) -> Result<bool, BackendError> {
        // SAFETY: an event that exists.
        match unsafe { sys::cuEventQuery(self.0) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            status => check(status, "cuEventQuery").map(|()| true),
        }
    }

    /// Waits until the device has passed it.
    pub(in crate::backend::cuda) fn wait(&self) -> Result<(), BackendError> {
        // SAFETY: an event that exists.
        check(unsafe { sys::cuEventSynchronize(self.0) }, "cuEventSynchronize")
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once.
        let _ = unsafe { sys::cuEventDestroy_v2(self.0) };
    }
}

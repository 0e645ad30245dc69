//! Modules and their functions, streams, events.
#![allow(unsafe_code, reason = "part of the door, see mod.rs")]

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult};

use super::error::{check, failed};
use crate::backend::BackendError;

/// Loaded machine code. Kept until the process ends, as its functions are.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cuda) struct CudaModule(sys::CUmodule);

/// A kernel, ready to launch.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cuda) struct Function {
    raw: sys::CUfunction,
    shape: FunctionShape,
}

/// What is known of a kernel before it is launched.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cuda) struct FunctionShape {
    /// Threads of a block.
    pub(in crate::backend::cuda) threads: u32,
    /// Shared memory of a block, where a launch does not ask for less.
    pub(in crate::backend::cuda) shared_bytes: u32,
    /// Bytes of its one parameter.
    pub(in crate::backend::cuda) param_bytes: usize,
}

// SAFETY: driver handles may be used from any thread.
unsafe impl Send for Function {}

impl CudaModule {
    /// Loads a cubin, or PTX that ends with 0.
    pub(in crate::backend::cuda) fn load(image: &[u8]) -> Result<Self, BackendError> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: a place for a handle; the image is a whole one of build.rs.
        let status = unsafe { sys::cuModuleLoadData(&raw mut raw, image.as_ptr().cast()) };
        check(status, "cuModuleLoadData")?;
        Ok(Self(raw))
    }

    /// The kernel of that name, on the device from here on.
    pub(in crate::backend::cuda) fn function(
        self,
        name: &str,
        shape: FunctionShape,
    ) -> Result<Function, BackendError> {
        let text = CString::new(name).map_err(|error| failed("kernel", error.to_string()))?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: a place for a handle, a string that ends with 0.
        let status = unsafe { sys::cuModuleGetFunction(&raw mut raw, self.0, text.as_ptr()) };
        check(status, "cuModuleGetFunction")?;
        // SAFETY: a function that exists. Whatever `CUDA_MODULE_LOADING` says, nothing is left to
        // the first launch.
        check(unsafe { sys::cuFuncLoad(raw) }, "cuFuncLoad")?;
        let (mut offset, mut bytes) = (0, 0);
        // SAFETY: a function that exists, two places for numbers.
        let status = unsafe { sys::cuFuncGetParamInfo(raw, 0, &raw mut offset, &raw mut bytes) };
        check(status, "cuFuncGetParamInfo")?;
        if bytes != shape.param_bytes {
            let cause =
                format!("{name} takes {bytes} bytes, and its twin has {}", shape.param_bytes);
            return Err(failed("kernel", cause));
        }
        if shape.shared_bytes > 48 << 10 {
            let bytes = i32::try_from(shape.shared_bytes).unwrap_or(i32::MAX);
            let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a function that exists.
            check(unsafe { sys::cuFuncSetAttribute(raw, which, bytes) }, "cuFuncSetAttribute")?;
        }
        Ok(Function { raw, shape })
    }
}

/// How a kernel is launched.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cuda) struct KernelLaunch {
    /// Blocks.
    pub(in crate::backend::cuda) grid: [u32; 3],
    /// Neighbouring blocks that run at once and read each other's shared memory.
    pub(in crate::backend::cuda) cluster: u32,
    /// Bytes of shared memory; what the function was made with where absent.
    pub(in crate::backend::cuda) shared_bytes: Option<u32>,
    /// The kernel may start before the kernel before it has ended, and waits by itself.
    pub(in crate::backend::cuda) dependent: bool,
}

/// A queue of the device's work, run in order.
pub(in crate::backend::cuda) struct CudaStream(Arc<Queue>);

/// The driver's stream, for those who must not outlive it.
pub(super) struct Queue(sys::CUstream);

// SAFETY: driver handles may be used from any thread.
unsafe impl Send for Queue {}
// SAFETY: the driver locks what it shares.
unsafe impl Sync for Queue {}

impl Queue {
    pub(super) fn raw(&self) -> sys::CUstream {
        self.0
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: made by `CudaStream::new`, destroyed once; work in it is finished first.
        let _ = unsafe { sys::cuStreamDestroy_v2(self.0) };
    }
}

impl CudaStream {
    pub(in crate::backend::cuda) fn new() -> Result<Self, BackendError> {
        let mut raw = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: a place for a handle; a context is current.
        check(unsafe { sys::cuStreamCreate(&raw mut raw, flags) }, "cuStreamCreate")?;
        Ok(Self(Arc::new(Queue(raw))))
    }

    pub(super) fn raw(&self) -> sys::CUstream {
        self.0.raw()
    }

    pub(super) fn queue(&self) -> Arc<Queue> {
        Arc::clone(&self.0)
    }

    /// Waits until all is done.
    pub(in crate::backend::cuda) fn synchronize(&self) -> Result<(), BackendError> {
        // SAFETY: a stream that exists.
        check(unsafe { sys::cuStreamSynchronize(self.raw()) }, "cuStreamSynchronize")
    }

    /// Enqueues a kernel with its one parameter, which must have the size that the kernel reads.
    pub(in crate::backend::cuda) fn launch<P: Copy>(
        &self,
        function: &Function,
        launch: KernelLaunch,
        params: &P,
    ) -> Result<(), BackendError> {
        use sys::CUlaunchAttributeID as Id;
        let FunctionShape { threads, shared_bytes, param_bytes } = function.shape;
        if size_of::<P>() != param_bytes {
            let cause = format!("{} bytes for a kernel that takes {param_bytes}", size_of::<P>());
            return Err(failed("launch", cause));
        }
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
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared_bytes.unwrap_or(shared_bytes),
            hStream: self.raw(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: if count == 2 { 2 } else { u32::from(count == 1) },
        };
        let mut pointers = [std::ptr::from_ref(params).cast_mut().cast::<c_void>()];
        // SAFETY: the driver copies the parameter, whose size was checked, before it returns.
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
}

/// A place in a stream that can be waited for.
#[derive(Debug)]
pub(in crate::backend::cuda) struct CudaEvent(sys::CUevent);

// SAFETY: driver handles may be used from any thread.
unsafe impl Send for CudaEvent {}

impl CudaEvent {
    pub(in crate::backend::cuda) fn new() -> Result<Self, BackendError> {
        let mut raw = std::ptr::null_mut();
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: a place for a handle; a context is current.
        check(unsafe { sys::cuEventCreate(&raw mut raw, flags) }, "cuEventCreate")?;
        Ok(Self(raw))
    }

    /// Marks the end of what the stream was given so far.
    pub(in crate::backend::cuda) fn record(&self, stream: &CudaStream) -> Result<(), BackendError> {
        // SAFETY: both exist.
        check(unsafe { sys::cuEventRecord(self.0, stream.raw()) }, "cuEventRecord")
    }

    /// Says whether the device has passed the event.
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

impl Drop for CudaEvent {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once.
        let _ = unsafe { sys::cuEventDestroy_v2(self.0) };
    }
}

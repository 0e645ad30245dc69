//! The driver: whether it is there, which devices it knows, a device's context.
#![allow(unsafe_code, reason = "part of the door, see mod.rs")]

use std::ffi::{CStr, c_int};

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};

use super::error::{check, failed};
use super::library;
use crate::backend::BackendError;

/// What the driver must offer: the CUDA version of driver 580.
const DRIVER_CUDA_MIN: i32 = 13_000;

/// Opens the driver, and says what is wrong with it otherwise. Returns its CUDA version.
pub(in crate::backend::cuda) fn start_driver() -> Result<i32, BackendError> {
    // SAFETY: the driver's initialisers may run in any process at any time.
    if let Err(error) = unsafe { libloading::Library::new("libcuda.so.1") } {
        let error = library::with_source(&error);
        let cause = format!("{error}; no NVIDIA driver is installed, or no GPU is passed through");
        return Err(failed("CUDA", cause));
    }
    // SAFETY: the library is there; 0 is the only flag.
    check(unsafe { sys::cuInit(0) }, "cuInit")?;
    let mut version: c_int = 0;
    // SAFETY: a place for a number.
    check(unsafe { sys::cuDriverGetVersion(&raw mut version) }, "cuDriverGetVersion")?;
    if version < DRIVER_CUDA_MIN {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        let cause =
            format!("the driver is for CUDA {major}.{minor}; driver 580 or newer is needed");
        return Err(failed("cuDriverGetVersion", cause));
    }
    Ok(version)
}

/// A device as the driver describes it.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// Its number.
    pub ordinal: i32,
    /// "NVIDIA H100 80GB HBM3".
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that a block may ask for.
    pub shared_bytes_max: u32,
    /// All of its memory.
    pub bytes_total: u64,
}

/// All devices that this process may use.
pub(in crate::backend::cuda) fn devices() -> Result<Vec<DeviceInfo>, BackendError> {
    let mut count: c_int = 0;
    // SAFETY: a place for a number; the driver was started.
    check(unsafe { sys::cuDeviceGetCount(&raw mut count) }, "cuDeviceGetCount")?;
    (0..count).map(describe_device).collect()
}

fn describe_device(ordinal: i32) -> Result<DeviceInfo, BackendError> {
    let mut device = 0;
    // SAFETY: a place for a handle; `ordinal` was counted.
    check(unsafe { sys::cuDeviceGet(&raw mut device, ordinal) }, "cuDeviceGet")?;
    let mut name = [0; 256];
    // SAFETY: room for 256 bytes, the last of which stays 0.
    check(unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), 255, device) }, "cuDeviceGetName")?;
    // SAFETY: ends with 0, see above.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    let mut bytes = 0;
    // SAFETY: a place for a number.
    check(unsafe { sys::cuDeviceTotalMem_v2(&raw mut bytes, device) }, "cuDeviceTotalMem")?;
    let attribute = |which| {
        let mut value: c_int = 0;
        // SAFETY: a place for a number, and a device that exists.
        let status = unsafe { sys::cuDeviceGetAttribute(&raw mut value, which, device) };
        check(status, "cuDeviceGetAttribute").map(|()| value)
    };
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let processors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let shared = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
    Ok(DeviceInfo {
        ordinal,
        name,
        capability: (major, minor),
        multiprocessors: u32::try_from(processors).unwrap_or(1),
        shared_bytes_max: u32::try_from(shared).unwrap_or(0),
        bytes_total: bytes as u64,
    })
}

/// A device's primary context, current on the thread that made it.
pub(in crate::backend::cuda) struct Context {
    device: sys::CUdevice,
}

impl Context {
    /// Takes the context and makes it current.
    pub(in crate::backend::cuda) fn new(ordinal: i32) -> Result<Self, BackendError> {
        let mut device = 0;
        // SAFETY: a place for a handle.
        check(unsafe { sys::cuDeviceGet(&raw mut device, ordinal) }, "cuDeviceGet")?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: a place for a handle, and a device that exists.
        let status = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut raw, device) };
        check(status, "cuDevicePrimaryCtxRetain")?;
        let context = Self { device };
        // SAFETY: retained above, released when `context` drops.
        check(unsafe { sys::cuCtxSetCurrent(raw) }, "cuCtxSetCurrent")?;
        Ok(context)
    }

    /// Free and total bytes of the device's memory.
    pub(in crate::backend::cuda) fn memory_bytes(&self) -> Result<(u64, u64), BackendError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: two places for numbers; a context is current.
        let status = unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) };
        check(status, "cuMemGetInfo")?;
        Ok((free as u64, total as u64))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once in `new`. A failure at the end of a process has no consequence.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

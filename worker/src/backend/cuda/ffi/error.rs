//! Errors of the driver's, each with the name of the call that failed.
#![allow(unsafe_code, reason = "part of the door, see mod.rs")]

use std::ffi::CStr;

use cudarc::driver::sys::{self, CUresult};

use crate::backend::BackendError;

/// Turns a status into an error that names the call.
pub(in crate::backend::cuda) fn check(
    status: CUresult,
    call: &'static str,
) -> Result<(), BackendError> {
    if status == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    Err(failed(call, describe(status)))
}

/// A call that failed.
pub(in crate::backend::cuda) fn failed(
    call: &'static str,
    cause: impl Into<String>,
) -> BackendError {
    BackendError::Device { call, cause: cause.into() }
}

fn describe(status: CUresult) -> String {
    let mut text = std::ptr::null();
    // SAFETY: `text` is a place for a pointer; the driver fills it with a static string, or not.
    let known = unsafe { sys::cuGetErrorString(status, &raw mut text) };
    if known != CUresult::CUDA_SUCCESS || text.is_null() {
        return format!("{status:?}");
    }
    // SAFETY: the driver says that it is a string that ends with 0 and lives forever.
    let text = unsafe { CStr::from_ptr(text) };
    format!("{status:?}: {}", text.to_string_lossy())
}

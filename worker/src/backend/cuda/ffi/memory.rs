//! Device memory, pinned and mapped host memory, and copies between them.
#![allow(unsafe_code, reason = "part of the door, see mod.rs")]

use std::ffi::c_void;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::sys;

use super::error::{check, failed};
use super::launch::CudaStream;
use crate::backend::BackendError;

/// Device memory, freed when dropped.
#[derive(Debug)]
pub(in crate::backend::cuda) struct DeviceBuffer {
    address: u64,
    bytes: usize,
}

impl DeviceBuffer {
    /// Takes so many bytes; not one is written.
    pub(in crate::backend::cuda) fn new(bytes: usize) -> Result<Self, BackendError> {
        let mut address = 0;
        // SAFETY: a place for an address; the driver refuses what it has not.
        let status = unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes.max(1)) };
        check(status, "cuMemAlloc")?;
        Ok(Self { address, bytes })
    }

    /// Where the buffer begins; at least 256-byte aligned.
    pub(in crate::backend::cuda) fn address(&self) -> u64 {
        self.address
    }

    /// Length of the buffer [bytes].
    pub(in crate::backend::cuda) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Fills all of it with a byte, in the stream's order.
    pub(in crate::backend::cuda) fn fill(
        &self,
        byte: u8,
        stream: &CudaStream,
    ) -> Result<(), BackendError> {
        // SAFETY: the range is this buffer's.
        let status = unsafe { sys::cuMemsetD8Async(self.address, byte, self.bytes, stream.raw()) };
        check(status, "cuMemsetD8Async")
    }

    /// Copies a part of it to the host, after all that the stream was given before.
    pub(in crate::backend::cuda) fn read(
        &self,
        at: usize,
        to: &mut [u8],
        stream: &CudaStream,
    ) -> Result<(), BackendError> {
        self.check_range(at, to.len())?;
        stream.synchronize()?;
        let from = self.address + at as u64;
        // SAFETY: both ranges are whole, and the copy ends before this returns.
        let status = unsafe { sys::cuMemcpyDtoH_v2(to.as_mut_ptr().cast(), from, to.len()) };
        check(status, "cuMemcpyDtoH")
    }

    /// Copies host memory into a part of it, after all that the stream was given before.
    #[cfg(test)]
    pub(in crate::backend::cuda) fn write(
        &self,
        at: usize,
        from: &[u8],
        stream: &CudaStream,
    ) -> Result<(), BackendError> {
        self.check_range(at, from.len())?;
        stream.synchronize()?;
        let to = self.address + at as u64;
        // SAFETY: both ranges are whole, and the copy ends before this returns.
        let status = unsafe { sys::cuMemcpyHtoD_v2(to, from.as_ptr().cast(), from.len()) };
        check(status, "cuMemcpyHtoD")
    }

    /// Enqueues a copy of pinned memory into a part of it. The caller waits for the stream before
    /// that range of `from` is written again.
    pub(in crate::backend::cuda) fn write_pinned(
        &self,
        at: usize,
        from: &PinnedBuffer,
        range: Range<usize>,
        stream: &CudaStream,
    ) -> Result<(), BackendError> {
        self.check_range(at, range.len())?;
        from.check_range(&range)?;
        let (to, bytes) = (self.address + at as u64, range.len());
        let from = from.host.wrapping_add(range.start).cast::<c_void>();
        // SAFETY: both ranges are whole; pinned memory lives until the context ends or it drops,
        // which waits for the device.
        let status = unsafe { sys::cuMemcpyHtoDAsync_v2(to, from, bytes, stream.raw()) };
        check(status, "cuMemcpyHtoDAsync")
    }

    /// Enqueues a copy of device memory into a part of it; the two do not overlap.
    pub(in crate::backend::cuda) fn copy_within(
        &self,
        at: usize,
        from: usize,
        bytes: usize,
        stream: &CudaStream,
    ) -> Result<(), BackendError> {
        self.check_range(at, bytes)?;
        self.check_range(from, bytes)?;
        let (to, from) = (self.address + at as u64, self.address + from as u64);
        // SAFETY: both ranges are whole.
        let status = unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, stream.raw()) };
        check(status, "cuMemcpyDtoDAsync")
    }

    fn check_range(&self, at: usize, bytes: usize) -> Result<(), BackendError> {
        if at.checked_add(bytes).is_some_and(|end| end <= self.bytes) {
            return Ok(());
        }
        let cause = format!("{bytes} bytes at {at} of a buffer of {}", self.bytes);
        Err(failed("copy", cause))
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        // SAFETY: taken in `new`, freed once. The driver waits for kernels that use it.
        let _ = unsafe { sys::cuMemFree_v2(self.address) };
    }
}

/// Host memory that the device reaches: pinned, and mapped into its addresses.
#[derive(Debug)]
pub(in crate::backend::cuda) struct PinnedBuffer {
    host: *mut u8,
    address: u64,
    bytes: usize,
}

// SAFETY: the memory belongs to the value, not to a thread.
unsafe impl Send for PinnedBuffer {}

impl PinnedBuffer {
    /// Takes so many bytes and zeroes them.
    pub(in crate::backend::cuda) fn new(bytes: usize) -> Result<Self, BackendError> {
        let bytes = bytes.max(1);
        let mut host = std::ptr::null_mut();
        let flags = sys::CU_MEMHOSTALLOC_DEVICEMAP | sys::CU_MEMHOSTALLOC_PORTABLE;
        // SAFETY: a place for a pointer.
        check(unsafe { sys::cuMemHostAlloc(&raw mut host, bytes, flags) }, "cuMemHostAlloc")?;
        let mut buffer = Self { host: host.cast(), address: 0, bytes };
        // SAFETY: `host` was mapped above; 0 is the only flag.
        let status = unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut buffer.address, host, 0) };
        check(status, "cuMemHostGetDevicePointer")?;
        // SAFETY: `bytes` bytes were taken, and nobody else knows of them.
        unsafe { buffer.host.write_bytes(0, bytes) };
        Ok(buffer)
    }

    /// The address by which the device finds the buffer.
    pub(in crate::backend::cuda) fn address(&self) -> u64 {
        self.address
    }

    /// Length of the buffer [bytes].
    pub(in crate::backend::cuda) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Stores `from` at a byte offset. The device must be past reading what was there.
    pub(in crate::backend::cuda) fn store(
        &mut self,
        at: usize,
        from: &[u8],
    ) -> Result<(), BackendError> {
        self.check_range(&(at..at.saturating_add(from.len())))?;
        let to = self.host.wrapping_add(at);
        // SAFETY: the range is this buffer's; `from` is a Rust slice, so it lies elsewhere.
        unsafe { to.copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        Ok(())
    }

    /// Stores a word that the device may be asking for, at a multiple of four bytes: once it sees
    /// the word, it sees all that was stored before.
    pub(in crate::backend::cuda) fn publish(
        &mut self,
        at: usize,
        word: u32,
    ) -> Result<(), BackendError> {
        self.check_range(&(at..at.saturating_add(size_of::<u32>())))?;
        if !at.is_multiple_of(size_of::<u32>()) {
            return Err(failed("pinned memory", format!("a word at byte {at}")));
        }
        let place = self.host.wrapping_add(at).cast();
        // SAFETY: within the buffer and aligned, since the buffer begins at a page; the host
        // reaches it through `&mut self` alone.
        let place = unsafe { AtomicU32::from_ptr(place) };
        place.store(word, Ordering::Release);
        Ok(())
    }

    /// Copies a range that the device has finished writing.
    pub(in crate::backend::cuda) fn load(
        &self,
        range: Range<usize>,
    ) -> Result<Vec<u8>, BackendError> {
        self.check_range(&range)?;
        let mut to = vec![0; range.len()];
        let from = self.host.wrapping_add(range.start);
        // SAFETY: the range is this buffer's, and `to` is new.
        unsafe { to.as_mut_ptr().copy_from_nonoverlapping(from, range.len()) };
        Ok(to)
    }

    /// Its first bytes, to be filled by the host alone.
    pub(in crate::backend::cuda) fn first_mut(&mut self, bytes: usize) -> &mut [u8] {
        // SAFETY: within the buffer; borrowed as long as the buffer is.
        unsafe { std::slice::from_raw_parts_mut(self.host, bytes.min(self.bytes)) }
    }

    fn check_range(&self, range: &Range<usize>) -> Result<(), BackendError> {
        if range.start <= range.end && range.end <= self.bytes {
            return Ok(());
        }
        Err(failed("pinned memory", format!("bytes {range:?} of a buffer of {}", self.bytes)))
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        // SAFETY: taken in `new`, freed once; the driver waits for copies that use it.
        let _ = unsafe { sys::cuMemFreeHost(self.host.cast()) };
    }
}

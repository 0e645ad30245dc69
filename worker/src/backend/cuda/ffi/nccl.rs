//! NCCL: a communicator between ranks, and its collectives in a stream's order.
//!
//! Communicators do not block: what a call leaves to the background shows as
//! [`NcclState::Working`], and the caller asks again, so that a peer that is gone never holds a
//! thread.
#![allow(unsafe_code, reason = "part of the door, see mod.rs")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::Arc;

use super::error::failed;
use super::launch::CudaStream;
use super::library::{SharedLibrary, version_text, with_source};
use super::nccl_bindings::{self as sys, ncclDataType_t as Type, ncclResult_t as Status};
use crate::backend::BackendError;

/// Bytes of a communicator's name.
pub(in crate::backend::cuda) const ID_BYTES: usize = 128;
/// Oldest version that is used, the first that was made for CUDA 13: 2.27.7.
const VERSION_MIN: usize = 22_707;
/// What the library knows a configuration by.
const CONFIG_MAGIC: u32 = 0xcafe_beef;
/// The library, and who brings it.
const LIBRARY: SharedLibrary = SharedLibrary { file: "libnccl.so.2", package: "nvidia-nccl-cu13" };

/// The library.
#[derive(Clone)]
pub(in crate::backend::cuda) struct Nccl(Arc<sys::Nccl>);

impl Nccl {
    /// Opens the library, out of one of `folders` if it is there; refuses an old one.
    pub(in crate::backend::cuda) fn open(folders: &[PathBuf]) -> Result<Self, BackendError> {
        LIBRARY.keep(folders)?;
        // SAFETY: the library may be initialised at any time; the bindings were made from its
        // header.
        let opened = unsafe { sys::Nccl::new(LIBRARY.file) };
        let library = opened.map_err(|error| LIBRARY.too_old(&with_source(&error)))?;
        let nccl = Self(Arc::new(library));
        let version = nccl.version()?;
        if version < VERSION_MIN {
            let [is, wanted] = [version, VERSION_MIN].map(version_text);
            return Err(LIBRARY.too_old(&format!("it is {is}; {wanted} is needed")));
        }
        Ok(nccl)
    }

    fn version(&self) -> Result<usize, BackendError> {
        let mut version = 0;
        // SAFETY: a place for a number.
        let status = unsafe { self.0.ncclGetVersion(&raw mut version) };
        self.check(status, "ncclGetVersion")?;
        Ok(usize::try_from(version).unwrap_or(0))
    }

    /// "2.28.9".
    pub(in crate::backend::cuda) fn version_text(&self) -> Result<String, BackendError> {
        Ok(version_text(self.version()?))
    }

    /// A name for a new communicator; this process answers those who come by it.
    pub(in crate::backend::cuda) fn new_id(&self) -> Result<Vec<u8>, BackendError> {
        let mut id = sys::ncclUniqueId { internal: [0; ID_BYTES] };
        // SAFETY: a place for an id.
        let status = unsafe { self.0.ncclGetUniqueId(&raw mut id) };
        self.check(status, "ncclGetUniqueId")?;
        Ok(id.internal.iter().map(|byte| byte.cast_unsigned()).collect())
    }

    /// Begins to join the communicator of that name, on the device that is current.
    pub(in crate::backend::cuda) fn join(
        &self,
        id: &[u8; ID_BYTES],
        rank: c_int,
        world: c_int,
    ) -> Result<Communicator, BackendError> {
        let id = sys::ncclUniqueId { internal: id.map(|byte| c_char::from_ne_bytes([byte])) };
        let mut config = config();
        let mut raw = std::ptr::null_mut();
        let (place, config) = (&raw mut raw, &raw mut config);
        // SAFETY: a place for a handle; the configuration is whole, and copied before this returns.
        let status = unsafe { self.0.ncclCommInitRankConfig(place, world, id, rank, config) };
        self.check(status, "ncclCommInitRankConfig")?;
        Ok(Communicator { library: self.clone(), raw })
    }

    /// Turns a status into an error that names the call; what goes on in the background is none.
    fn check(&self, status: Status, call: &'static str) -> Result<(), BackendError> {
        if [Status::ncclSuccess, Status::ncclInProgress].contains(&status) {
            return Ok(());
        }
        // SAFETY: any number is allowed; the text lives forever.
        let text = unsafe { self.0.ncclGetErrorString(status) };
        // SAFETY: null asks for this thread's last error; the text lives until the next one.
        let more = unsafe { self.0.ncclGetLastError(std::ptr::null_mut()) };
        let texts = [text, more].map(text_of).into_iter().filter(|text| !text.is_empty());
        Err(failed(call, texts.collect::<Vec<_>>().join(": ")))
    }
}

fn text_of(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: a string of the library's that ends with 0.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// `NCCL_CONFIG_INITIALIZER`, except that calls do not block.
fn config() -> sys::ncclConfig_t {
    let (unset, no_text) = (c_int::MIN, std::ptr::null());
    sys::ncclConfig_t {
        size: size_of::<sys::ncclConfig_t>(),
        magic: CONFIG_MAGIC,
        version: sys::NCCL_VERSION_CODE,
        blocking: 0,
        cgaClusterSize: unset,
        minCTAs: unset,
        maxCTAs: unset,
        netName: no_text,
        splitShare: unset,
        trafficClass: unset,
        commName: no_text,
        collnetEnable: unset,
        CTAPolicy: unset,
        shrinkShare: unset,
        nvlsCTAs: unset,
        nChannelsPerNetPeer: unset,
        nvlinkCentricSched: unset,
    }
}

/// Whether a communicator takes the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) enum NcclState {
    /// It takes the next call.
    Idle,
    /// What was asked of it last goes on.
    Working,
}

/// A rank's end of a communicator. Whoever drops it without [`Self::abort`] leaves it to the
/// process's end.
pub(in crate::backend::cuda) struct Communicator {
    library: Nccl,
    raw: sys::ncclComm_t,
}

// SAFETY: the library's handles may be used from any thread, one at a time.
unsafe impl Send for Communicator {}

impl Communicator {
    /// What it does, or how it failed; failures of peers show here, some of them.
    pub(in crate::backend::cuda) fn state(&self) -> Result<NcclState, BackendError> {
        let mut state = Status::ncclSuccess;
        // SAFETY: a communicator that exists, a place for a status.
        let status = unsafe { self.library.0.ncclCommGetAsyncError(self.raw, &raw mut state) };
        self.library.check(status, "ncclCommGetAsyncError")?;
        self.library.check(state, "NCCL")?;
        Ok(if state == Status::ncclInProgress { NcclState::Working } else { NcclState::Idle })
    }

    /// Enqueues: `count` floats at `address` become the sum of all ranks' there.
    pub(in crate::backend::cuda) fn sum(
        &self,
        address: u64,
        count: usize,
        stream: &CudaStream,
    ) -> Result<(), BackendError> {
        let at = address as *mut c_void;
        let (add, raw, stream) = (sys::ncclRedOp_t::ncclSum, self.raw, stream.raw().cast());
        // SAFETY: the floats lie where the backend placed them, on this and every other rank.
        let status = unsafe {
            self.library.0.ncclAllReduce(at, at, count, Type::ncclFloat32, add, raw, stream)
        };
        self.library.check(status, "ncclAllReduce")
    }

    /// Enqueues: of the floats at `address`, `count` a rank in the order of ranks, all ranks get
    /// what the rank `mine`, each its own, has.
    pub(in crate::backend::cuda) fn gather(
        &self,
        address: u64,
        count: usize,
        mine: usize,
        stream: &CudaStream,
    ) -> Result<(), BackendError> {
        let (from, to) = (address + 4 * (mine * count) as u64, address as *mut c_void);
        let (from, raw, stream) = (from as *const c_void, self.raw, stream.raw().cast());
        // SAFETY: the floats lie where the backend placed them, on this and every other rank.
        let status = unsafe {
            self.library.0.ncclAllGather(from, to, count, Type::ncclFloat32, raw, stream)
        };
        self.library.check(status, "ncclAllGather")
    }

    /// Gives it up: kernels that wait for peers end. Hangs while a CUDA graph holds one of its
    /// collectives; takes half a second.
    pub(in crate::backend::cuda) fn abort(self) {
        // SAFETY: a communicator that exists, not used again. A failure has no consequence.
        let _ = unsafe { self.library.0.ncclCommAbort(self.raw) };
    }
}

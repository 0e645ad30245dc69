//! The other ranks: joining them, sums and gathers in the stream's order, giving them up.
//!
//! A rank alone has no communicator, and its collectives are the identity. No wait here is for
//! ever: each asks again and again, and ends when the supervisor says so; what the library itself
//! notices of a lost peer is a hint, which waits for the supervisor's word. Sums are in single
//! precision, and their bits are the same on all ranks. No rank goes on without another.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::ffi::error::failed;
use super::ffi::launch::{CudaEvent, CudaStream};
use super::ffi::nccl::{Communicator, ID_BYTES, Nccl, NcclState};
use crate::backend::{Abort, BackendError};

/// Peers must have joined by then.
const JOIN_DEADLINE: Duration = Duration::from_secs(60);
/// How long a failure that the library noticed waits for the supervisor, who knows the cause.
const HINT: Duration = Duration::from_secs(2);
/// How long a communicator may take to end.
const ABORT: Duration = Duration::from_secs(2);
/// How long giving up waits for the thread that uses the communicator.
const ENGINE_EXIT_GRACE: Duration = Duration::from_millis(900);

/// This rank's way to the others.
#[derive(Default)]
pub(super) struct CudaRanks {
    /// Open where there are other ranks.
    library: Option<Nccl>,
    group: Option<Group>,
}

/// A communicator in use.
struct Group {
    /// Present until the group ends.
    communicator: Option<Communicator>,
    rank: usize,
    word: Arc<Word>,
    /// When the library first noticed a failure.
    hinted: Cell<Option<Instant>>,
}

/// What the supervisor and the thread that works say to each other.
#[derive(Default)]
struct Word {
    given_up: AtomicBool,
    /// Collectives may be under way: steps begun and not collected.
    steps: AtomicUsize,
    gone: Mutex<bool>,
    is_gone: Condvar,
}

impl Word {
    /// Ends all waits; returns when nothing is left in the device that waits for a peer, or soon.
    fn give_up(&self) {
        self.given_up.store(true, Ordering::SeqCst);
        if self.steps.load(Ordering::SeqCst) > 0
            && let Ok(gone) = self.gone.lock()
        {
            let _ = self.is_gone.wait_timeout_while(gone, ENGINE_EXIT_GRACE, |gone| !*gone);
        }
    }
}

impl CudaRanks {
    /// For one of `world` ranks, who opens the library out of `folders` where there are others.
    pub(super) fn new(world: usize, folders: &[PathBuf]) -> Result<Self, BackendError> {
        let library = (world > 1).then(|| Nccl::open(folders)).transpose()?;
        Ok(Self { library, group: None })
    }

    fn library(&self, operation: &'static str) -> Result<&Nccl, BackendError> {
        let cause = || "this rank was opened as one that is alone".to_owned();
        self.library.as_ref().ok_or_else(|| BackendError::Args { operation, cause: cause() })
    }

    /// Names a new communicator.
    pub(super) fn new_id(&self) -> Result<Vec<u8>, BackendError> {
        self.library("comm_id")?.new_id()
    }

    /// Joins the communicator of that name, on the device that is current.
    pub(super) fn join(
        &mut self,
        id: &[u8],
        rank: usize,
        world: usize,
    ) -> Result<Abort, BackendError> {
        let refuse = |cause: String| BackendError::Args { operation: "join", cause };
        let id: &[u8; ID_BYTES] =
            id.try_into().map_err(|_| refuse(format!("an id of {} bytes", id.len())))?;
        let number = |rank: usize| i32::try_from(rank).map_err(|error| refuse(error.to_string()));
        let communicator = self.library("join")?.join(id, number(rank)?, number(world)?)?;
        let word = Arc::new(Word::default());
        let (handle, hinted) = (Arc::clone(&word), Cell::default());
        let group = Group { communicator: Some(communicator), rank, word, hinted };
        let began = Instant::now();
        group.wait_until("join", || {
            if began.elapsed() > JOIN_DEADLINE {
                return Err(failed("join", format!("not all peers came in {JOIN_DEADLINE:?}")));
            }
            Ok(group.is_idle())
        })?;
        self.group = Some(group);
        Ok(Box::new(move || handle.give_up()))
    }

    /// Says whether there are other ranks.
    pub(super) fn are_several(&self) -> bool {
        self.group.is_some()
    }

    /// This rank's number.
    pub(super) fn rank(&self) -> usize {
        self.group.as_ref().map_or(0, |group| group.rank)
    }

    /// A step begins whose collectives may wait for peers.
    pub(super) fn step_begins(&self) {
        self.group.iter().for_each(|group| _ = group.word.steps.fetch_add(1, Ordering::SeqCst));
    }

    /// A step was collected.
    pub(super) fn step_ended(&self) {
        self.group.iter().for_each(|group| _ = group.word.steps.fetch_sub(1, Ordering::SeqCst));
    }

    /// Enqueues: `count` floats at `address` become the sum of all ranks'.
    pub(super) fn sum(
        &self,
        operation: &'static str,
        (address, count): (u64, usize),
        stream: &CudaStream,
    ) -> Result<(), BackendError> {
        let Some(group) = &self.group else { return Ok(()) };
        group.enqueue(operation, |communicator| communicator.sum(address, count, stream))
    }

    /// Enqueues: the ranks' parts at `address`, `count` floats each, come together on all ranks.
    pub(super) fn gather(
        &self,
        operation: &'static str,
        (address, count): (u64, usize),
        stream: &CudaStream,
    ) -> Result<(), BackendError> {
        let Some(group) = &self.group else { return Ok(()) };
        let mine = group.rank;
        group.enqueue(operation, |communicator| communicator.gather(address, count, mine, stream))
    }

    /// Whether the device has passed `event`, or never will.
    pub(super) fn is_passed(&self, event: &CudaEvent) -> Result<bool, BackendError> {
        if let Some(group) = &self.group {
            group.check("step")?;
        }
        event.is_passed()
    }

    /// Waits until the device has passed `event`.
    pub(super) fn wait(&self, event: &CudaEvent) -> Result<(), BackendError> {
        match &self.group {
            Some(group) => group.wait_until("step", || event.is_passed()),
            None => event.wait(),
        }
    }
}

impl Group {
    /// Whether the communicator takes the next call. One that failed does not.
    fn is_idle(&self) -> bool {
        let state = self.communicator.as_ref().map(Communicator::state);
        matches!(state, Some(Ok(NcclState::Idle)))
    }

    /// Fails when the supervisor gave up, or the library noticed a failure some time ago.
    fn check(&self, operation: &'static str) -> Result<(), BackendError> {
        if self.word.given_up.load(Ordering::SeqCst) {
            return Err(BackendError::Aborted { operation });
        }
        let Some(Err(error)) = self.communicator.as_ref().map(Communicator::state) else {
            return Ok(());
        };
        let since = self.hinted.get().unwrap_or_else(Instant::now);
        self.hinted.set(Some(since));
        if since.elapsed() < HINT { Ok(()) } else { Err(error) }
    }

    fn wait_until(
        &self,
        operation: &'static str,
        mut is_over: impl FnMut() -> Result<bool, BackendError>,
    ) -> Result<(), BackendError> {
        while !is_over()? {
            self.check(operation)?;
            thread::yield_now();
        }
        Ok(())
    }

    /// Calls the library, and waits until what it does in the background is in the stream.
    fn enqueue(
        &self,
        operation: &'static str,
        call: impl FnOnce(&Communicator) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        self.communicator.as_ref().map(call).transpose()?;
        self.wait_until(operation, || Ok(self.is_idle()))
    }
}

/// CUDA graphs with its collectives must be gone. Another thread ends the communicator: should that
/// hang, this one goes on.
impl Drop for Group {
    fn drop(&mut self) {
        let (tell, is_over) = mpsc::channel();
        let communicator = self.communicator.take();
        thread::spawn(move || {
            if let Some(communicator) = communicator {
                communicator.abort();
            }
            let _ = tell.send(());
        });
        let _ = is_over.recv_timeout(ABORT);
        if let Ok(mut gone) = self.word.gone.lock() {
            *gone = true;
            self.word.is_gone.notify_all();
        }
    }
}

//! What a connection and its requests tell each other: whether the client is still there, since
//! when it has been without a request, and that an answer is to be the last.

use super::config::HttpConfig;
use rustix::io::ioctl_fionread;
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// How long a client that may have left gets nothing but its answer.
const MAY_HAVE_LEFT_GRACE: Duration = Duration::from_millis(100);
/// With more bytes behind its request, the end of a client's connection may not get through.
const BEHIND_BYTES_MAX: u64 = 32 << 10;

/// The state of one client. Its connection and its requests share it; requests carry it as an
/// extension.
#[derive(Debug)]
pub(super) struct ClientState {
    may_have_left: AtomicBool,
    last_answer: Notify,
    /// `None` while a request that has arrived whole is being answered.
    waiting: Mutex<Option<IdleState>>,
    idle_timeout: Duration,
    head_timeout: Duration,
}

/// A client without a request, or with a part of one.
#[derive(Clone, Copy, Debug)]
struct IdleState {
    since: Instant,
    /// Bytes of the next request's head have arrived.
    began: bool,
    /// When the connection ends. `None` while a body arrives, which has a time limit of its own.
    deadline: Option<Instant>,
}

impl ClientState {
    pub(super) fn new(config: &HttpConfig) -> Self {
        let HttpConfig { idle_timeout, head_timeout, .. } = *config;
        let client = Self {
            may_have_left: AtomicBool::new(false),
            last_answer: Notify::new(),
            waiting: Mutex::new(None),
            idle_timeout,
            head_timeout,
        };
        client.answered();
        client
    }

    /// Bytes came from the client.
    pub(super) fn received(&self) {
        if let Some(waiting) = &mut *self.waiting()
            && !waiting.began
        {
            waiting.began = true;
            waiting.deadline = Some(Instant::now() + self.head_timeout);
        }
    }

    /// Bytes went to the client. While no answer is made, they are the end of the last one.
    pub(super) fn sent(&self) {
        if let Some(waiting) = &mut *self.waiting()
            && !waiting.began
        {
            waiting.deadline = Some(Instant::now() + self.idle_timeout);
        }
    }

    /// The head of a request has arrived.
    pub(super) fn head_arrived(&self) {
        if let Some(waiting) = &mut *self.waiting() {
            waiting.began = true;
            waiting.deadline = None;
        }
    }

    /// All of a request has arrived.
    pub(super) fn request_arrived(&self) {
        *self.waiting() = None;
    }

    /// The answer is complete, and the client is without a request again.
    pub(super) fn answered(&self) {
        let since = Instant::now();
        let deadline = Some(since + self.idle_timeout);
        *self.waiting() = Some(IdleState { since, began: false, deadline });
    }

    /// Since when there has been no request that arrived whole. `None` while there is one.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.waiting().map(|waiting| waiting.since)
    }

    /// Whether the client has let the time for its next request pass.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.waiting().and_then(|waiting| waiting.deadline).is_some_and(|deadline| deadline <= now)
    }

    /// Lets the connection end after its current answer.
    pub(super) fn close_after_answer(&self) {
        self.last_answer.notify_one();
    }

    /// Waits for [`ClientState::close_after_answer`].
    pub(super) async fn last_answer(&self) {
        self.last_answer.notified().await;
    }

    /// Whether the client may have left. Until something is sent to it, a client that has closed
    /// its socket looks like one that has shut down its writing side, or has sent more than there
    /// is room for.
    pub(super) fn may_have_left(&self) -> bool {
        self.may_have_left.load(Ordering::Relaxed)
    }

    /// Waits until [`ClientState::may_have_left`] has been true for a moment. Must be polled by the
    /// connection's own task, which [`ClientState::closed`] wakes.
    pub(super) async fn until_may_have_left(&self) {
        poll_fn(|_| if self.may_have_left() { Poll::Ready(()) } else { Poll::Pending }).await;
        sleep(MAY_HAVE_LEFT_GRACE).await;
    }

    /// Waits until the client has closed `socket`, as far as its host has told. Hyper would have to
    /// read to find that, and does not while bytes that it has read wait for their turn. The kernel
    /// tells without a read.
    pub(super) async fn closed(&self, socket: &TcpStream) {
        loop {
            let Ok(ready) = socket.ready(Interest::READABLE).await else { return };
            let is_last = ready.is_read_closed();
            if is_last || ioctl_fionread(socket).is_ok_and(|bytes| bytes > BEHIND_BYTES_MAX) {
                self.may_have_left.store(true, Ordering::Relaxed);
                // Answers check it when this task is polled next.
                tokio::task::yield_now().await;
            }
            if is_last {
                break;
            }
            // Bytes are there: wait for the next event. Whoever reads tries before it waits.
            let again = || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into());
            let _ = socket.try_io(Interest::READABLE, again);
        }
        let _ = socket.ready(Interest::ERROR).await;
    }

    fn waiting(&self) -> MutexGuard<'_, Option<IdleState>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

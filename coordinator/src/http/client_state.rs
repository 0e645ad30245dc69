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

/// A client of which nobody knows whether it is there gets nothing but its answer for so long.
const DOUBT_GRACE: Duration = Duration::from_millis(100);
/// With so many bytes behind its request, the end of a client's connection may not get through.
const BEHIND_BYTES_MAX: u64 = 32 << 10;

/// One client, as its connection and its requests see it. Requests carry it as an extension.
#[derive(Debug)]
pub(super) struct ClientState {
    doubtful: AtomicBool,
    last_answer: Notify,
    /// `None` while a request that arrived whole is being answered.
    waiting: Mutex<Option<IdleState>>,
    idle_timeout: Duration,
    head_timeout: Duration,
}

/// A client without a request, or with a part of one.
#[derive(Clone, Copy, Debug)]
struct IdleState {
    since: Instant,
    /// Bytes of the next head have arrived.
    began: bool,
    /// `None` while a body arrives, which has a time limit of its own.
    deadline: Option<Instant>,
}

impl ClientState {
    pub(super) fn new(config: &HttpConfig) -> Self {
        let HttpConfig { idle_timeout, head_timeout, .. } = *config;
        let client = Self {
            doubtful: AtomicBool::new(false),
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

    /// Bytes went to the client: the end of an answer, if none is being made.
    pub(super) fn sent(&self) {
        if let Some(waiting) = &mut *self.waiting()
            && !waiting.began
        {
            waiting.deadline = Some(Instant::now() + self.idle_timeout);
        }
    }

    /// The head of a request is there.
    pub(super) fn head_arrived(&self) {
        if let Some(waiting) = &mut *self.waiting() {
            waiting.began = true;
            waiting.deadline = None;
        }
    }

    /// All of a request is there.
    pub(super) fn request_arrived(&self) {
        *self.waiting() = None;
    }

    /// The answer is made, and the client is without a request again.
    pub(super) fn answered(&self) {
        let since = Instant::now();
        let deadline = Some(since + self.idle_timeout);
        *self.waiting() = Some(IdleState { since, began: false, deadline });
    }

    /// Since when there has been no request that arrived whole; `None` while there is one.
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

    /// Whether the client may have left. One that has closed its socket looks like one that has
    /// shut down its writing side, or that has sent more than there is room for, until something is sent
    /// to it.
    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful.load(Ordering::Relaxed)
    }

    /// Waits until [`ClientState::is_doubtful`] has been so for a moment. To be polled by the
    /// connection's own task, which [`ClientState::gone`] wakes.
    pub(super) async fn may_have_left(&self) {
        poll_fn(|_| if self.is_doubtful() { Poll::Ready(()) } else { Poll::Pending }).await;
        sleep(DOUBT_GRACE).await;
    }

    /// Waits until the client has closed `socket`, as far as its host has said so. Hyper would have
    /// to read to find that, which it does not do while bytes that it has read wait for their turn;
    /// the kernel tells without reading.
    pub(super) async fn gone(&self, socket: &TcpStream) {
        loop {
            let Ok(ready) = socket.ready(Interest::READABLE).await else { return };
            let is_last = ready.is_read_closed();
            if is_last || ioctl_fionread(socket).is_ok_and(|bytes| bytes > BEHIND_BYTES_MAX) {
                self.doubtful.store(true, Ordering::Relaxed);
                // Answers look at it when this task is polled next.
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

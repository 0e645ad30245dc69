//! What a connection and its requests tell each other: whether the client is still there, since
//! when it has been without a request, and that an answer is to be the last.

use super::config::TransportConfig;
use rustix::io::ioctl_fionread;
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
/// How long a client of HTTP/2 may take to hear that its connection ends.
const GOODBYE_GRACE: Duration = Duration::from_secs(1);

/// The state of one client. Its connection and its requests share it; requests carry it as an
/// extension.
#[derive(Debug)]
pub struct ClientState {
    may_have_left: AtomicBool,
    last_answer: Notify,
    is_http2: AtomicBool,
    requests: Mutex<Requests>,
    idle_timeout: Duration,
    head_timeout: Duration,
}

/// The requests of a client.
#[derive(Clone, Copy, Debug)]
struct Requests {
    /// Those that have arrived whole and are being answered. While there are any, the rest is of
    /// no account.
    answering: usize,
    /// Since when there is none of them.
    since: Instant,
    /// Bytes of the next request's head have arrived.
    began: bool,
    /// When the connection ends. `None` while a body arrives, which has a time limit of its own.
    deadline: Option<Instant>,
    /// The client was told that its connection ends.
    told: bool,
}

/// What is to be done about a client that has let the time for its next request pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lateness {
    InTime,
    /// Its connection ends, and it is told so.
    Told,
    /// Its connection ends.
    Over,
}

impl ClientState {
    pub(super) fn new(config: &TransportConfig) -> Self {
        let TransportConfig { idle_timeout, head_timeout, .. } = *config;
        let since = Instant::now();
        let deadline = Some(since + idle_timeout);
        Self {
            may_have_left: AtomicBool::new(false),
            last_answer: Notify::new(),
            is_http2: AtomicBool::new(false),
            requests: Mutex::new(Requests {
                answering: 0,
                since,
                began: false,
                deadline,
                told: false,
            }),
            idle_timeout,
            head_timeout,
        }
    }

    /// The client speaks HTTP/2. Whatever it has sent so far is no part of a request.
    pub(super) fn speaks_http2(&self) {
        self.is_http2.store(true, Ordering::Relaxed);
        self.handshaken();
    }

    /// What the client has sent so far is no part of a request.
    pub(super) fn handshaken(&self) {
        self.requests().wait(self.idle_timeout);
    }

    pub(super) fn is_http2(&self) -> bool {
        self.is_http2.load(Ordering::Relaxed)
    }

    /// Bytes came from the client. Over HTTP/2 they need not belong to a request.
    pub(super) fn received(&self) {
        if self.is_http2() {
            return;
        }
        let mut requests = self.requests();
        if requests.answering == 0 && !requests.began {
            requests.began = true;
            requests.deadline = Some(Instant::now() + self.head_timeout);
        }
    }

    /// Bytes went to the client. Over HTTP/1.1, while no answer is made, they are the end of the
    /// last one.
    pub(super) fn sent(&self) {
        if self.is_http2() {
            return;
        }
        let mut requests = self.requests();
        if requests.answering == 0 && !requests.began {
            requests.deadline = Some(Instant::now() + self.idle_timeout);
        }
    }

    /// The head of a request has arrived. The client waits for the answer until the exchange is
    /// dropped.
    pub(super) fn exchange(self: &Arc<Self>) -> Arc<Exchange> {
        let mut requests = self.requests();
        requests.began = true;
        requests.deadline = None;
        drop(requests);
        Arc::new(Exchange { client: Arc::clone(self), whole: AtomicBool::new(false) })
    }

    /// Since when there has been no request that arrived whole. `None` while there is one.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        let requests = self.requests();
        (requests.answering == 0).then_some(requests.since)
    }

    /// What is to be done now if the client has let the time for its next request pass.
    pub(super) fn lateness(&self, now: Instant) -> Lateness {
        let mut requests = self.requests();
        let is_late = requests.deadline.is_some_and(|deadline| deadline <= now);
        if requests.answering > 0 || !is_late {
            return Lateness::InTime;
        }
        if !self.is_http2() || std::mem::replace(&mut requests.told, true) {
            return Lateness::Over;
        }
        requests.deadline = Some(now + GOODBYE_GRACE);
        Lateness::Told
    }

    /// Lets the connection end after its current answer. Over HTTP/2 the end of an answer is its
    /// own.
    pub fn close_after_answer(&self) {
        if !self.is_http2() {
            self.close();
        }
    }

    /// Lets the connection end after its current answers.
    pub(super) fn close(&self) {
        self.last_answer.notify_one();
    }

    /// Waits for [`ClientState::close`].
    pub(super) async fn last_answer(&self) {
        self.last_answer.notified().await;
    }

    /// Whether the client may have left. Until something is sent to it, a client that has closed
    /// its socket looks like one that has shut down its writing side, or has sent more than there
    /// is room for.
    pub fn may_have_left(&self) -> bool {
        self.may_have_left.load(Ordering::Relaxed)
    }

    /// Waits until [`ClientState::may_have_left`] has been true for a moment. Must be polled by the
    /// connection's own task, which [`ClientState::closed`] wakes.
    pub async fn until_may_have_left(&self) {
        poll_fn(|_| if self.may_have_left() { Poll::Ready(()) } else { Poll::Pending }).await;
        sleep(MAY_HAVE_LEFT_GRACE).await;
    }

    /// Waits until the client has closed `socket`, as far as its host has told. Hyper would have to
    /// read to find that, and over HTTP/1.1 does not while bytes that it has read wait for their
    /// turn. The kernel tells without a read.
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

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Requests {
    /// The client is without a request from now on.
    fn wait(&mut self, idle_timeout: Duration) {
        self.since = Instant::now();
        self.began = false;
        self.deadline = Some(self.since + idle_timeout);
    }
}

/// A request and its answer. It ends when it is dropped, with the body of the answer.
#[derive(Debug)]
pub(super) struct Exchange {
    client: Arc<ClientState>,
    whole: AtomicBool,
}

impl Exchange {
    pub(super) fn client(&self) -> &Arc<ClientState> {
        &self.client
    }

    /// All of the request has arrived.
    pub(super) fn request_arrived(&self) {
        if !self.whole.swap(true, Ordering::Relaxed) {
            self.client.requests().answering += 1;
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut requests = self.client.requests();
        requests.answering -= usize::from(*self.whole.get_mut());
        if requests.answering == 0 {
            requests.wait(self.client.idle_timeout);
        }
    }
}

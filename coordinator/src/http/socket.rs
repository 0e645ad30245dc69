//! A client's socket, which two write to: hyper, and the events of a streamed answer.
//!
//! A step has an event for each of many clients. Through hyper each of them would wake its
//! connection's task; here they are written where they arise, one system call each. Hyper writes
//! the rest: heads, whole answers, the end of a body. Their order is kept by two rules: events wait
//! until hyper has written what it holds, and hyper waits until what is left of an event is
//! written.

use bytes::{Buf, BytesMut};
use hyper::Version;
use rustix::net::{SendFlags, Shutdown};
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep};

/// The socket of one connection.
#[derive(Debug)]
pub(super) struct ClientSocket {
    tcp: TcpStream,
    /// Events wait: hyper may hold the head that they belong to, or has a rest to write.
    held: AtomicBool,
    /// What the socket did not take of an event.
    rest: Mutex<BytesMut>,
}

impl ClientSocket {
    pub(super) fn new(tcp: TcpStream) -> Arc<Self> {
        Arc::new(Self { tcp, held: AtomicBool::new(false), rest: Mutex::default() })
    }

    fn rest(&self) -> MutexGuard<'_, BytesMut> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the body of one streamed answer goes. It comes to a handler with its request.
#[derive(Clone, Debug)]
pub(super) struct Outlet {
    socket: Arc<ClientSocket>,
    closing: Arc<Notify>,
    /// HTTP/1.0 knows no chunks: there a body ends with its connection. Hyper, which writes the
    /// head and the end, decides by the same rule.
    chunked: bool,
}

impl Outlet {
    /// `closing` asks the connection to end when its current answer is complete.
    pub(super) fn new(socket: Arc<ClientSocket>, closing: Arc<Notify>, version: Version) -> Self {
        Self { socket, closing, chunked: version > Version::HTTP_10 }
    }

    /// Hyper holds the head: events begin after it.
    pub(super) fn open(&self) {
        self.socket.held.store(true, Ordering::Relaxed);
    }

    /// Whether [`Outlet::send`] may be called. If not, hyper has to write first, and whoever waits
    /// for it is polled then.
    pub(super) fn has_room(&self) -> bool {
        !self.socket.held.load(Ordering::Relaxed)
    }

    /// Sends a piece of the body. What the socket does not take, and what is wrong with it, is for
    /// the connection's task to find, which must be woken if there is no room after this.
    pub(super) fn send(&self, events: &[u8]) {
        let mut piece = Vec::with_capacity(events.len() + 32);
        if self.chunked {
            // Writing into memory cannot fail.
            let _ = write!(piece, "{:x}\r\n", events.len());
        }
        piece.extend_from_slice(events);
        if self.chunked {
            piece.extend_from_slice(b"\r\n");
        }
        let at_once = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = rustix::net::send(&self.socket.tcp, &piece, at_once).unwrap_or(0);
        if sent < piece.len() {
            self.socket.rest().extend_from_slice(&piece[sent..]);
            self.socket.held.store(true, Ordering::Relaxed);
        }
    }

    /// Lets the connection end after this answer.
    pub(super) fn close_after_answer(&self) {
        self.closing.notify_one();
    }
}

/// Hyper's side of the socket.
pub(super) struct HyperSide {
    socket: Arc<ClientSocket>,
    patience: Patience,
}

impl HyperSide {
    pub(super) fn new(socket: Arc<ClientSocket>, write_timeout: Duration) -> Self {
        Self { socket, patience: Patience { write_timeout, stalled: None } }
    }

    /// Writes what is left of an event.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut rest = self.socket.rest();
        while !rest.is_empty() {
            let sent = ready!(self.patience.poll_write(&self.socket.tcp, cx, &rest))?;
            rest.advance(sent);
        }
        Poll::Ready(Ok(()))
    }
}

/// Lets a write that makes no progress in time fail. Hyper itself would wait for ever, and the
/// request behind it with it.
struct Patience {
    write_timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn poll_write(
        &mut self,
        tcp: &TcpStream,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        while tcp.poll_write_ready(cx)?.is_ready() {
            match tcp.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => {
                    self.stalled = None;
                    return Poll::Ready(outcome);
                }
            }
        }
        let write_timeout = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(write_timeout)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for HyperSide {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let tcp = &self.socket.tcp;
        loop {
            ready!(tcp.poll_read_ready(cx))?;
            match tcp.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome.map(|_| ())),
            }
        }
    }
}

impl AsyncWrite for HyperSide {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_rest(cx))?;
        let Self { socket, patience } = &mut *self;
        patience.poll_write(&socket.tcp, cx, bytes)
    }

    /// Hyper calls this when it holds nothing more.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_rest(cx))?;
        if self.socket.held.swap(false, Ordering::Relaxed) {
            // Events waited for this, in a body that is polled with its connection.
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let down = rustix::net::shutdown(&self.socket.tcp, Shutdown::Write);
        Poll::Ready(down.map_err(io::Error::from))
    }
}

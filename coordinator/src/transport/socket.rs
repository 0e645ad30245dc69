//! A client's socket for hyper: writes have a time limit, and reads and writes are noted in the
//! client's state.

use super::client_state::ClientState;
use rustix::net::{RecvFlags, Shutdown};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// The socket of one connection.
#[derive(Debug)]
pub(super) struct ClientSocket {
    tcp: Arc<TcpStream>,
    client: Arc<ClientState>,
    write_timeout: Duration,
    /// Runs while a write makes no progress. Hyper itself would wait for ever.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl ClientSocket {
    pub(super) fn new(
        tcp: Arc<TcpStream>,
        client: Arc<ClientState>,
        write_timeout: Duration,
    ) -> Self {
        Self { tcp, client, write_timeout, stalled: None }
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            // Reading comes before waiting: `ClientState::closed` takes the readiness and leaves
            // the bytes.
            match rustix::net::recv(&*self.tcp, buffer.initialize_unfilled(), RecvFlags::DONTWAIT) {
                Ok((bytes, _)) => {
                    if bytes > 0 {
                        self.client.received();
                    }
                    buffer.advance(bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
            ready!(self.tcp.poll_read_ready(cx))?;
            let again = || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into());
            let _ = self.tcp.try_io(Interest::READABLE, again);
        }
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        while self.tcp.poll_write_ready(cx)?.is_ready() {
            match self.tcp.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => {
                    self.client.sent();
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

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let down = rustix::net::shutdown(&*self.tcp, Shutdown::Write);
        Poll::Ready(down.map_err(io::Error::from))
    }
}

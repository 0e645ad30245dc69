//! A worker's socket, which wakes the serve loop only for what can be read.
//!
//! Tokio's own Unix sockets also wake their thread each time that the peer has read something,
//! which happens once per plan. This socket asks to be woken for writing only after a write that
//! would block.

use std::io::{self, IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tonic::transport::server::Connected;

/// One worker's connection.
pub(super) struct WorkerSocket {
    socket: AsyncFd<UnixStream>,
    /// A second handle of the socket, while a write waits until the peer has read.
    full: Option<AsyncFd<UnixStream>>,
}

impl WorkerSocket {
    /// Wraps an accepted socket.
    pub(super) fn new(socket: tokio::net::UnixStream) -> io::Result<Self> {
        let socket = register(socket.into_std()?, Interest::READABLE)?;
        Ok(Self { socket, full: None })
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        mut send: impl FnMut(&UnixStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let outcome = match &self.full {
                None => send(self.socket.get_ref()),
                Some(full) => {
                    let mut room = ready!(full.poll_write_ready(cx))?;
                    let Ok(outcome) = room.try_io(|full| send(full.get_ref())) else { continue };
                    outcome
                }
            };
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let again = self.socket.get_ref().try_clone()?;
                    self.full = Some(register(again, Interest::WRITABLE)?);
                }
                outcome => {
                    self.full = None;
                    return Poll::Ready(outcome);
                }
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "sound for a socket, which owns its descriptor; the successor is unsafe"
)]
fn register(socket: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    AsyncFd::with_interest(socket, interest)
}

impl AsyncRead for WorkerSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.socket.poll_read_ready(cx))?;
            let free = buffer.initialize_unfilled();
            let Ok(outcome) = ready.try_io(|socket| socket.get_ref().read(free)) else { continue };
            buffer.advance(outcome?);
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for WorkerSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |mut socket| socket.write(bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |mut socket| socket.write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.get_ref().shutdown(std::net::Shutdown::Write))
    }
}

impl Connected for WorkerSocket {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn more_than_the_socket_holds_arrives_whole_both_ways() {
        let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
        let mut ours = WorkerSocket::new(ours).unwrap();
        let sent: Vec<u8> = (0..4_u32 << 20).map(|at| at.to_le_bytes()[1]).collect();
        let wanted = sent.clone();
        let peer = tokio::spawn(async move {
            let mut received = vec![0; wanted.len()];
            theirs.read_exact(&mut received).await.unwrap();
            theirs.write_all(&received).await.unwrap();
            assert!(received == wanted);
        });
        ours.write_all(&sent).await.unwrap();
        assert!(ours.full.is_none());
        let mut back = Vec::new();
        ours.read_to_end(&mut back).await.unwrap();
        assert!(back == sent);
        peer.await.unwrap();
    }
}

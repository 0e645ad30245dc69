//! Which protocol a client speaks where no encryption has settled it: HTTP/2 begins with words that
//! no other request begins with.

use super::client_state::ClientState;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use std::io;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What every client of HTTP/2 sends first (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The protocols of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Waits until the first bytes on `socket` say what is spoken, and leaves them there.
pub(super) async fn spoken(socket: &TcpStream, client: &ClientState) -> io::Result<Protocol> {
    loop {
        let ready = socket.ready(Interest::READABLE).await?;
        let mut bytes = [0; PREFACE.len()];
        match recv(socket, &mut bytes, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((PREFACE_LEN, _)) if bytes == *PREFACE => return Ok(Protocol::Http2),
            Ok((len, _)) if len == 0 || bytes[..len] != PREFACE[..len] => {
                return Ok(Protocol::Http1);
            }
            Ok(_) if ready.is_read_closed() => return Ok(Protocol::Http1),
            Ok(_) => client.received(),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        // Too few bytes are there: wait for the next event.
        let again = || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into());
        let _ = socket.try_io(Interest::READABLE, again);
    }
}

const PREFACE_LEN: usize = PREFACE.len();

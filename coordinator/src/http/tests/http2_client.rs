//! Clients of HTTP/2 without TLS: one that is polite, over the `h2` crate, and one that writes
//! frames by hand.

use super::client::{SOON, Server};
use axum::body::Bytes;
use axum::http::{Request, StatusCode};
use h2::RecvStream;
use h2::client::{Builder, ResponseFuture, SendRequest};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A polite client's connection.
pub(super) struct Http2Client {
    pub(super) requests: SendRequest<Bytes>,
    pub(super) connection: JoinHandle<Result<(), h2::Error>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Http2Answer {
    pub(super) status: StatusCode,
    pub(super) body: String,
}

impl Http2Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Http2Client {
    pub(super) async fn new(server: &Server) -> Self {
        Self::with(server, &Builder::new()).await
    }

    /// A client over a connection that has begun, as one of TLS.
    pub(super) async fn over(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (requests, connection) = Builder::new().handshake(io).await.unwrap();
        Self { requests, connection: tokio::spawn(connection) }
    }

    pub(super) async fn with(server: &Server, builder: &Builder) -> Self {
        let (requests, connection) = builder.handshake(server.connect().await).await.unwrap();
        Self { requests, connection: tokio::spawn(connection) }
    }

    /// Sends a whole request. Dropping the future takes it back.
    pub(super) async fn send(&self, method: &str, path: &str, body: &str) -> ResponseFuture {
        let request = Request::builder().method(method).uri(format!("http://localhost{path}"));
        let request = request.header("content-type", "application/json").body(()).unwrap();
        let mut requests = self.requests.clone().ready().await.unwrap();
        let (answer, mut sending) = requests.send_request(request, body.is_empty()).unwrap();
        if !body.is_empty() {
            sending.send_data(body.to_owned().into(), true).unwrap();
        }
        answer
    }

    pub(super) async fn ask(&self, method: &str, path: &str, body: &str) -> Http2Answer {
        read(self.send(method, path, body).await).await
    }
}

/// Reads an answer to its end.
pub(super) async fn read(answer: ResponseFuture) -> Http2Answer {
    let (head, mut stream) = timeout(SOON, answer).await.unwrap().unwrap().into_parts();
    let mut body = Vec::new();
    while let Some(piece) = next_piece(&mut stream).await {
        body.extend_from_slice(&piece.unwrap());
    }
    Http2Answer { status: head.status, body: String::from_utf8(body).unwrap() }
}

/// The next piece of a body. The server may send as much again.
pub(super) async fn next_piece(stream: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let piece = timeout(SOON, stream.data()).await.expect("a piece, an error or the end");
    if let Some(Ok(piece)) = &piece {
        stream.flow_control().release_capacity(piece.len()).unwrap();
    }
    piece
}

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// A frame (RFC 9113, 4.1).
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A header as HPACK writes one that is in no table, both texts shorter than 127 bytes.
pub(super) fn header(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// The header block of a request.
pub(super) fn request_block(method: &str, path: &str) -> Vec<u8> {
    let lines = [(":method", method), (":path", path), (":scheme", "http")];
    let lines = lines.iter().chain(&[(":authority", "localhost")]);
    lines.flat_map(|(name, value)| header(name, value)).collect()
}

/// A connection whose client writes frames by hand.
pub(super) async fn raw(server: &Server) -> TcpStream {
    let mut socket = server.connect().await;
    socket.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    socket
}

/// Reads frames until one of `kind`, and gives its stream and payload. `None` if the connection
/// ends before that.
pub(super) async fn read_frame(socket: &mut TcpStream, kind: u8) -> Option<(u32, Vec<u8>)> {
    let reading = async {
        loop {
            let mut head = [0; 9];
            socket.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            socket.read_exact(&mut payload).await.ok()?;
            if head[3] == kind {
                return Some((u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload));
            }
        }
    };
    timeout(SOON, reading).await.expect("a frame or the end of the connection")
}

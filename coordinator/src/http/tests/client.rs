//! A client written by hand over a real socket, so that it can be slow, rude and gone.

use super::super::{HttpConfig, serve};
use crate::front::testing::{Act, Scripted, scripted, scripted_model};
use crate::text::TextModel;
use crate::transport::TransportConfig;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A server on a socket, in front of a scripted serve loop.
pub(super) struct Server {
    pub(super) scripted: Scripted,
    pub(super) address: SocketAddr,
    pub(super) shutdown: oneshot::Sender<()>,
    pub(super) served: JoinHandle<std::io::Result<()>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

pub(super) fn server(scripts: Vec<Vec<Act>>) -> Server {
    server_with(scripts, HttpConfig::default(), u64::MAX)
}

/// A server of another model than the small one.
pub(super) fn server_of(model: TextModel, scripts: Vec<Vec<Act>>) -> Server {
    serving(scripted_model(model, scripts, u64::MAX), HttpConfig::default())
}

pub(super) fn server_with(scripts: Vec<Vec<Act>>, config: HttpConfig, unread_max: u64) -> Server {
    serving(scripted(scripts, unread_max), config)
}

/// The usual settings with these bounds of connections.
pub(super) fn bounded(transport: TransportConfig) -> HttpConfig {
    HttpConfig { transport, ..HttpConfig::default() }
}

fn serving(scripted: Scripted, config: HttpConfig) -> Server {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (shutdown, stopped) = oneshot::channel();
    let core = scripted.core.clone();
    let served = tokio::spawn(serve(listener, core, config, async { drop(stopped.await) }));
    Server { scripted, address, shutdown, served }
}

impl Server {
    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A connection that holds little that its client has not read.
    pub(super) async fn connect_small(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// One request on a connection of its own.
    pub(super) async fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let mut socket = self.connect().await;
        send(&mut socket, method, path, body).await;
        read_answer(&mut socket).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &body.to_string()).await
    }
}

pub(super) async fn send(
    socket: &mut (impl AsyncWrite + Unpin),
    method: &str,
    path: &str,
    body: &str,
) {
    let lines = ["Host: localhost", "Content-Type: application/json"];
    send_head(socket, &format!("{method} {path} HTTP/1.1"), &lines, body).await;
}

/// A request with a first line and others of the caller's.
pub(super) async fn send_head(
    socket: &mut (impl AsyncWrite + Unpin),
    first: &str,
    lines: &[&str],
    body: &str,
) {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let length = body.len();
    let request = format!("{first}\r\n{lines}Content-Length: {length}\r\n\r\n{body}");
    socket.write_all(request.as_bytes()).await.unwrap();
}

/// How long a test waits for what should come at once; a loaded machine is slow.
pub(super) const SOON: Duration = Duration::from_secs(10);

/// Reads until `end` or the end of the connection, within [`SOON`].
pub(super) async fn read_until(socket: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut bytes = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&bytes).contains(end) {
            match socket.read_buf(&mut bytes).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
    };
    let in_time = timeout(SOON, reading).await;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(in_time.is_ok(), "{end:?} did not come: {text}");
    text
}

pub(super) async fn read_answer(socket: &mut (impl AsyncRead + Unpin)) -> Answer {
    let mut text = read_until(socket, "\r\n\r\n").await;
    let at = text.find("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text}")) + 4;
    let mut body = text.split_off(at);
    let head = text.to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    if head.contains("transfer-encoding: chunked") {
        while !body.ends_with("0\r\n\r\n") {
            body.push_str(&read_some(socket).await);
        }
        return Answer { status, head, body: unchunked(&body) };
    }
    let length = head
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
    while body.len() < length {
        body.push_str(&read_some(socket).await);
    }
    Answer { status, head, body }
}

async fn read_some(socket: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let reading = timeout(SOON, socket.read_buf(&mut bytes)).await;
    assert!(reading.unwrap().unwrap() > 0, "the connection ended within the body");
    String::from_utf8(bytes).unwrap()
}

fn unchunked(body: &str) -> String {
    let (mut out, mut rest) = (String::new(), body);
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        out.push_str(&after[..length]);
        rest = &after[length + 2..];
    }
    out
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// The data of each event.
    pub(super) fn events(&self) -> Vec<&str> {
        let events = self.body.split("\n\n");
        let events = events.filter(|event| !event.is_empty() && !event.starts_with(':'));
        events.map(|event| event.strip_prefix("data: ").unwrap()).collect()
    }

    /// The events that are JSON.
    pub(super) fn chunks(&self) -> Vec<Value> {
        let json = self.events().into_iter().filter(|event| *event != "[DONE]");
        json.map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}

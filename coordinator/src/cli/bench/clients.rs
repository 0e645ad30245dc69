//! The clients of `binfer bench coordinator`: real sockets that count server-sent events.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::script::BenchPrng;

/// The shortest prompt. The others are up to a block longer, so that they do not all need a new
/// block in the same step.
const PROMPT_TOKENS: u32 = 16;

/// How often clients read. They do not block: on one host, the writer's CPU time includes the
/// wake-up of a blocked reader, which it would not if the clients were elsewhere.
const READ_INTERVAL: Duration = Duration::from_millis(1);

/// Runs all clients to the end of their answers. Returns how many events came.
pub(super) fn run(server: SocketAddr, streams: u32, tokens: u32) -> Result<u64> {
    let request = |index| SseClient::request(server, &request(index, tokens));
    let mut clients = (0..streams).map(request).collect::<Result<Vec<_>>>()?;
    while !clients.iter().all(|client| client.ended) {
        std::thread::sleep(READ_INTERVAL);
        clients.iter_mut().try_for_each(SseClient::read)?;
    }
    Ok(clients.iter().map(|client| client.line_ends / 2).sum())
}

/// The body of a client's request.
pub(super) fn body(index: u32, tokens: u32) -> String {
    let mut prng = BenchPrng::new(u64::from(index) + 100);
    let len = PROMPT_TOKENS + index % 64;
    let prompt: Vec<String> = (0..len).map(|_| prng.below(1000).to_string()).collect();
    format!(
        r#"{{"prompt":[{}],"max_tokens":{tokens},"stream":true,"ignore_eos":true,"temperature":0}}"#,
        prompt.join(",")
    )
}

fn request(index: u32, tokens: u32) -> String {
    let body = body(index, tokens);
    format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// One connection with one answer.
struct SseClient {
    socket: TcpStream,
    buffer: Vec<u8>,
    answered: bool,
    ended: bool,
    last: u8,
    /// The line feeds without a carriage return in front, of which an event has two.
    line_ends: u64,
}

impl SseClient {
    fn request(server: SocketAddr, request: &str) -> Result<Self> {
        let mut socket = TcpStream::connect(server).context("bench client: connect")?;
        socket.write_all(request.as_bytes()).context("bench client: request")?;
        socket.set_nonblocking(true)?;
        let buffer = vec![0; 16 << 10];
        Ok(Self { socket, buffer, answered: false, ended: false, last: 0, line_ends: 0 })
    }

    /// Reads what has come.
    fn read(&mut self) -> Result<()> {
        while !self.ended {
            let len = match self.socket.read(&mut self.buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                outcome => outcome.context("bench client: answer")?,
            };
            let bytes = &self.buffer[..len];
            if !self.answered && !bytes.starts_with(b"HTTP/1.1 200") {
                bail!("bench client: {}", String::from_utf8_lossy(bytes));
            }
            self.answered = true;
            self.ended = len == 0;
            for byte in bytes {
                self.line_ends += u64::from(*byte == b'\n' && self.last != b'\r');
                self.last = *byte;
            }
        }
        Ok(())
    }
}

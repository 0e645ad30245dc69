//! Clients of the coordinator's bench: real sockets that read server-sent events and count them.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::script::Dice;

/// Shortest prompt; the others are up to a block longer, so that not all get a block in the same
/// step.
const PROMPT_TOKENS: u32 = 16;

/// Runs all clients at once, to the end of their answers. Returns how many events came.
pub(super) fn run(server: SocketAddr, streams: u32, tokens: u32) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for index in 0..streams {
            let request = request(index, tokens);
            clients.spawn(read_answer(server, request));
        }
        clients.join_all().await.into_iter().sum()
    })
}

fn request(index: u32, tokens: u32) -> String {
    let mut dice = Dice::new(u64::from(index) + 100);
    let len = PROMPT_TOKENS + index % 64;
    let prompt: Vec<String> = (0..len).map(|_| dice.below(1000).to_string()).collect();
    let body = format!(
        r#"{{"prompt":[{}],"max_tokens":{tokens},"stream":true,"ignore_eos":true,"temperature":0}}"#,
        prompt.join(",")
    );
    format!(
        "POST /v1/completions HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn read_answer(server: SocketAddr, request: String) -> Result<u64> {
    let mut socket = TcpStream::connect(server).await.context("bench client: connect")?;
    socket.write_all(request.as_bytes()).await.context("bench client: request")?;
    let mut buffer = vec![0_u8; 64 << 10];
    let (mut answered, mut line_ends, mut last) = (false, 0, 0);
    loop {
        let len = socket.read(&mut buffer).await.context("bench client: answer")?;
        if !answered && !buffer[..len].starts_with(b"HTTP/1.1 200") {
            bail!("bench client: {}", String::from_utf8_lossy(&buffer[..len]));
        }
        if len == 0 {
            // An event ends with two line feeds; HTTP's own lines have a carriage return too.
            return Ok(line_ends / 2);
        }
        answered = true;
        for byte in &buffer[..len] {
            line_ends += u64::from(*byte == b'\n' && last != b'\r');
            last = *byte;
        }
    }
}

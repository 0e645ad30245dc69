//! The same clients over one connection of HTTP/2, as a gateway has it.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use axum::body::Bytes;
use axum::http::{Method, Request, StatusCode};
use h2::client::{Builder, SendRequest};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::clients;

/// No client keeps the server waiting for leave to send.
const WINDOW_BYTES: u32 = (1 << 31) - 1;

/// Runs all clients to the end of their answers. Returns how many events came.
pub(super) fn run(server: SocketAddr, streams: u32, tokens: u32) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = TcpStream::connect(server).await.context("bench client: connect")?;
        let mut builder = Builder::new();
        builder.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
        let (requests, connection) = builder.handshake::<_, Bytes>(socket).await?;
        tokio::spawn(connection);
        let requests = requests.ready().await?;
        let mut clients = JoinSet::new();
        for index in 0..streams {
            clients.spawn(events_of(requests.clone(), clients::body(index, tokens)));
        }
        let mut events = 0;
        while let Some(ended) = clients.join_next().await {
            events += ended??;
        }
        Ok(events)
    })
}

/// Asks, and counts the events of the answer.
async fn events_of(requests: SendRequest<Bytes>, body: String) -> Result<u64> {
    let request = Request::builder()
        .method(Method::POST)
        .uri("http://localhost/v1/completions")
        .header("content-type", "application/json")
        .body(())?;
    let mut requests = requests.ready().await?;
    let (answer, mut sending) = requests.send_request(request, false)?;
    sending.send_data(body.into(), true)?;
    let (head, mut answer) = answer.await?.into_parts();
    ensure!(head.status == StatusCode::OK, "bench client: {}", head.status);
    let mut line_ends = 0;
    while let Some(bytes) = answer.data().await {
        let bytes = bytes.context("bench client: answer")?;
        answer.flow_control().release_capacity(bytes.len())?;
        line_ends += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    }
    Ok(line_ends / 2)
}

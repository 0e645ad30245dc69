//! What a client of HTTP/2 cannot make the server do.

use super::super::HttpConfig;
use super::client::{SOON, Server, bounded, server, server_with};
use super::http2_client::{
    CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Http2Client, PING, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, frame, header, next_piece, raw, read, read_frame, request_block,
};
use crate::front::testing::{Act, say};
use crate::sched::Finish;
use crate::transport::TransportConfig;
use axum::http::Request;
use h2::Reason;
use h2::client::Builder;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, timeout};

const PLAIN: &str = "/v1/completions";
const WHOLE: &str = "{\"prompt\": \"a\"}";
const STREAMED: &str = "{\"prompt\": \"a\", \"stream\": true}";
const WHOLE_HEAD: u8 = END_STREAM | END_HEADERS;

fn with(config: TransportConfig, scripts: Vec<Vec<Act>>) -> Server {
    server_with(scripts, bounded(config), u64::MAX)
}

/// A payload of one number.
fn number(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

#[tokio::test]
async fn a_connection_has_so_many_requests_at_once() {
    let config = TransportConfig { streams_max: 2, ..TransportConfig::default() };
    let held = || vec![say("held"), Act::Hold];
    let server = with(config, vec![held(), held()]);
    let mut socket = raw(&server).await;
    let (_, settings) = read_frame(&mut socket, SETTINGS).await.unwrap();
    let setting = |id: u8, value| [&[0, id][..], &number(value)].concat();
    for expected in [setting(3, 2), setting(4, 256 << 10)] {
        assert!(settings.chunks(6).any(|setting| setting == expected), "{settings:?}");
    }
    // What a connection may send ahead of its bodies' readers.
    let (stream, more) = read_frame(&mut socket, WINDOW_UPDATE).await.unwrap();
    assert_eq!((stream, more), (0, number((1 << 20) - 65_535).to_vec()));
    for stream in [1, 3, 5] {
        // Their bodies do not come.
        let mut block = request_block("POST", PLAIN);
        block.extend(header("content-type", "application/json"));
        socket.write_all(&frame(HEADERS, END_HEADERS, stream, &block)).await.unwrap();
    }
    let refused = read_frame(&mut socket, RST_STREAM).await.unwrap();
    assert_eq!(refused, (5, number(Reason::REFUSED_STREAM.into()).to_vec()));
}

#[tokio::test]
async fn requests_that_are_taken_back_in_a_flood_end_their_connection() {
    let config = TransportConfig { resets_max: 10, ..TransportConfig::default() };
    let server = with(config, Vec::new());
    let mut socket = raw(&server).await;
    let block = request_block("GET", "/health");
    let pair = |count: u32| {
        let head = frame(HEADERS, WHOLE_HEAD, 2 * count + 1, &block);
        [head, frame(RST_STREAM, 0, 2 * count + 1, &number(Reason::CANCEL.into()))].concat()
    };
    let flood: Vec<u8> = (0..1000).flat_map(pair).collect();
    let _ = socket.write_all(&flood).await;
    let (_, goodbye) = read_frame(&mut socket, GOAWAY).await.unwrap();
    assert_eq!(goodbye[4..8], number(Reason::ENHANCE_YOUR_CALM.into()));
    assert!(read_frame(&mut socket, 99).await.is_none(), "the connection ends");
    assert_eq!(server.ask("GET", "/health", "").await.status, 200);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_alone() {
    let config =
        TransportConfig { head_bytes_max: 8 << 10, headers_max: 20, ..TransportConfig::default() };
    let server = with(config, Vec::new());
    let client = Http2Client::new(&server).await;
    let long = "x".repeat(10_000);
    for (count, value) in [(1, long.as_str()), (30, "x")] {
        let mut request = Request::builder().uri("http://localhost/health");
        for line in 0..count {
            request = request.header(format!("x-{line}"), value);
        }
        let mut requests = client.requests.clone().ready().await.unwrap();
        let (answer, _) = requests.send_request(request.body(()).unwrap(), true).unwrap();
        assert_eq!(read(answer).await.status, 431);
    }
    assert_eq!(client.ask("GET", "/health", "").await.status, 200);
}

#[tokio::test]
async fn a_head_without_an_end_ends_its_connection() {
    let server = server(Vec::new());
    let mut socket = raw(&server).await;
    socket.write_all(&frame(HEADERS, 0, 1, &request_block("GET", "/health"))).await.unwrap();
    let more: Vec<u8> = (0..100).flat_map(|_| header("x", &"x".repeat(100))).collect();
    let mut sent = 0;
    while sent < 10_000 && socket.write_all(&frame(CONTINUATION, 0, 1, &more)).await.is_ok() {
        sent += 1;
    }
    assert!(sent < 10_000, "{sent} frames were taken");
    assert_eq!(server.ask("GET", "/health", "").await.status, 200);
}

/// More than the window of a stream.
fn flood() -> Vec<Act> {
    vec![Act::Say(vec![b'x'; 64 << 10]), Act::Say(vec![b'x'; 64 << 10]), Act::Hold]
}

#[tokio::test]
async fn an_answer_of_which_nothing_is_taken_ends_alone() {
    let write_timeout = Duration::from_millis(200);
    let config = TransportConfig { write_timeout, ..TransportConfig::default() };
    let good = || vec![say("good"), Act::Finish(Finish::Stop)];
    let whole = vec![Act::Say(vec![b'x'; 200]), Act::Finish(Finish::Stop)];
    let mut server = with(config, vec![flood(), good(), whole, good()]);
    let mut builder = Builder::new();
    builder.initial_window_size(100);
    let client = Http2Client::with(&server, &builder).await;
    let answer = client.send("POST", PLAIN, STREAMED).await;
    let (_, mut stalled) = timeout(SOON, answer).await.unwrap().unwrap().into_parts();
    // It reads others meanwhile.
    assert_eq!(client.ask("POST", PLAIN, WHOLE).await.status, 200);
    let cancelled = timeout(SOON, server.scripted.cancelled.recv()).await.unwrap();
    assert!(matches!(cancelled, Some((_, 0))), "{cancelled:?}");
    let mut end = Ok(());
    while end.is_ok() {
        end = next_piece(&mut stalled).await.expect("no orderly end").map(drop);
    }
    // One that takes its time, and takes, gets all of it.
    let answer = client.send("POST", PLAIN, WHOLE).await;
    let (_, mut slow) = timeout(SOON, answer).await.unwrap().unwrap().into_parts();
    let mut bytes = 0;
    while let Some(piece) = next_piece(&mut slow).await {
        bytes += piece.unwrap().len();
        sleep(write_timeout / 4).await;
    }
    assert!(bytes > 300, "{bytes}");
    assert_eq!(client.ask("POST", PLAIN, WHOLE).await.status, 200);
}

#[tokio::test]
async fn bodies_have_their_size_time_and_memory() {
    let body_timeout = Duration::from_millis(150);
    let config = HttpConfig { body_timeout, body_memory_bytes: 16 << 10, ..HttpConfig::default() };
    let server = server_with(vec![vec![Act::Finish(Finish::Stop)]], config, u64::MAX);
    let client = Http2Client::new(&server).await;
    let request = |length: &str| {
        let request = Request::builder().method("POST").uri(format!("http://localhost{PLAIN}"));
        let request = request.header("content-type", "application/json");
        request.header("content-length", length).body(()).unwrap()
    };
    // Nothing follows these heads; short ones count too, since there may be many of them.
    for (length, status) in [("5000000", 413), ("20000", 429), ("10000", 408)] {
        let mut requests = client.requests.clone().ready().await.unwrap();
        let (answer, _sending) = requests.send_request(request(length), false).unwrap();
        let head = timeout(SOON, answer).await.unwrap().unwrap();
        assert_eq!(head.status(), status, "{length}");
    }
    assert_eq!(client.ask("POST", PLAIN, WHOLE).await.status, 200, "memory is given back");
}

#[tokio::test]
async fn a_connection_without_a_request_has_its_time_whatever_else_is_sent() {
    let idle_timeout = Duration::from_millis(300);
    let config = TransportConfig { idle_timeout, ..TransportConfig::default() };
    let answer = vec![say("text"), Act::Wait(2 * idle_timeout), Act::Finish(Finish::Stop)];
    let server = with(config, vec![answer]);
    let client = Http2Client::new(&server).await;
    let began = Instant::now();
    assert_eq!(client.ask("POST", PLAIN, WHOLE).await.status, 200, "an answer has more");
    assert!(began.elapsed() >= 2 * idle_timeout);
    timeout(SOON, client.connection).await.expect("GOAWAY").unwrap().unwrap();

    let mut socket = raw(&server).await;
    let began = Instant::now();
    let pings = async {
        while socket.write_all(&frame(PING, 0, 0, &[0; 8])).await.is_ok() {
            sleep(idle_timeout / 10).await;
        }
    };
    timeout(SOON, pings).await.expect("pings keep no connection");
    assert!(began.elapsed() >= idle_timeout / 2);
}

#[tokio::test]
async fn the_connection_that_was_without_a_request_longest_makes_room() {
    let config = TransportConfig { connections_max: 2, ..TransportConfig::default() };
    let server = with(config, vec![vec![say("held"), Act::Hold]]);
    let busy = Http2Client::new(&server).await;
    let held = busy.send("POST", PLAIN, STREAMED).await;
    let (_, mut held) = timeout(SOON, held).await.unwrap().unwrap().into_parts();
    next_piece(&mut held).await.unwrap().unwrap();
    let idle = Http2Client::new(&server).await;
    assert_eq!(idle.ask("GET", "/health", "").await.status, 200);
    assert_eq!(server.ask("GET", "/health", "").await.status, 200);
    assert!(timeout(SOON, idle.connection).await.is_ok(), "it made room");
    assert!(!busy.connection.is_finished());
}

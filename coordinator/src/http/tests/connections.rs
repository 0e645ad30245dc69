//! Many connections: how many there are, for how long, and what their bodies take.

use super::super::HttpConfig;
use super::client::{SOON, bounded, read_answer, read_until, send, send_head, server, server_with};
use crate::front::testing::{Act, say};
use crate::sched::Finish;
use crate::transport::TransportConfig;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const PLAIN: &str = "/v1/completions";
const BODY: &str = "{\"prompt\": \"a\"}";

fn head(content_length: usize) -> String {
    format!(
        "POST {PLAIN} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {content_length}\r\n\r\n"
    )
}

async fn is_closed(socket: &mut TcpStream) -> bool {
    timeout(SOON, socket.read(&mut [0])).await.unwrap().is_ok_and(|bytes| bytes == 0)
}

#[tokio::test]
async fn at_the_limit_the_connection_that_was_without_a_request_longest_makes_room() {
    let config = bounded(TransportConfig { connections_max: 3, ..TransportConfig::default() });
    let quick = vec![say("quick"), Act::Finish(Finish::Stop)];
    let server = server_with(vec![vec![say("held"), Act::Hold], quick], config, u64::MAX);
    let mut busy = server.connect().await;
    send(&mut busy, "POST", PLAIN, "{\"prompt\": \"a\", \"stream\": true}").await;
    read_until(&mut busy, "\n\n\r\n").await;
    // The first to come has just been answered: the second has waited longest.
    let mut answered = server.connect().await;
    sleep(Duration::from_millis(20)).await;
    let mut waiting = server.connect().await;
    waiting.write_all(b"POST / HTTP/1.1\r\nHo").await.unwrap();
    sleep(Duration::from_millis(20)).await;
    send(&mut answered, "POST", PLAIN, BODY).await;
    assert_eq!(read_answer(&mut answered).await.status, 200);

    assert_eq!(server.ask("GET", "/health", "").await.status, 200);
    assert!(is_closed(&mut waiting).await);
    assert_eq!(server.ask("GET", "/health", "").await.status, 200);
    let left = timeout(Duration::from_millis(50), busy.read(&mut [0])).await;
    assert!(left.is_err(), "a connection with a request is never ended");
}

#[tokio::test]
async fn while_all_connections_have_a_request_another_one_waits() {
    let config = bounded(TransportConfig { connections_max: 2, ..TransportConfig::default() });
    let held = || vec![say("held"), Act::Hold];
    let server = server_with(vec![held(), held()], config, u64::MAX);
    let mut busy = [server.connect().await, server.connect().await];
    for socket in &mut busy {
        send(socket, "POST", PLAIN, "{\"prompt\": \"a\", \"stream\": true}").await;
        read_until(socket, "\n\n\r\n").await;
    }
    let mut third = server.connect().await;
    send(&mut third, "GET", "/health", "").await;
    let early = timeout(Duration::from_millis(100), third.read(&mut [0])).await;
    assert!(early.is_err(), "there is no room for it");
    drop(busy);
    assert_eq!(read_answer(&mut third).await.status, 200);
}

#[tokio::test]
async fn a_connection_without_a_request_has_its_time() {
    let idle_timeout = Duration::from_millis(300);
    let config = bounded(TransportConfig { idle_timeout, ..TransportConfig::default() });
    let answer = vec![say("text"), Act::Wait(2 * idle_timeout), Act::Finish(Finish::Stop)];
    let server = server_with(vec![answer], config, u64::MAX);
    let mut new = server.connect().await;
    let mut used = server.connect().await;
    send(&mut used, "POST", PLAIN, BODY).await;
    assert_eq!(read_answer(&mut used).await.status, 200, "an answer has more");
    let began = std::time::Instant::now();
    assert!(is_closed(&mut new).await && is_closed(&mut used).await);
    assert!(began.elapsed() >= idle_timeout / 2);
}

#[tokio::test]
async fn long_bodies_share_memory_and_short_ones_need_none() {
    let config = HttpConfig { body_memory_bytes: 256 << 10, ..HttpConfig::default() };
    let script = || vec![Act::Finish(Finish::Stop)];
    let server = server_with(vec![script(), script()], config, u64::MAX);
    let mut holder = server.connect().await;
    holder.write_all(format!("{}{{", head(200_000)).as_bytes()).await.unwrap();
    sleep(Duration::from_millis(50)).await;
    // A client that writes all before it reads sees the answer, not a broken connection.
    let long = format!("{BODY}{}", " ".repeat(3_000_000));
    let refused = server.ask("POST", PLAIN, &long).await;
    assert_eq!(refused.status, 429);
    assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
    assert_eq!(server.ask("POST", PLAIN, BODY).await.status, 200);
    drop(holder);
    sleep(Duration::from_millis(50)).await;
    let fits = format!("{BODY}{}", " ".repeat(200_000));
    assert_eq!(server.ask("POST", PLAIN, &fits).await.status, 200, "memory is given back");
}

#[tokio::test]
async fn whoever_is_refused_sees_why_and_may_ask_again_on_the_same_connection() {
    let server = server(vec![vec![Act::Finish(Finish::Stop)]]);
    let mut socket = server.connect().await;
    for (path, length, status) in
        [("/v1/nothing", 2_000_000, 404), (PLAIN, 5_000_000, 413), (PLAIN, BODY.len(), 200)]
    {
        let body = format!("{BODY}{}", " ".repeat(length - BODY.len()));
        send(&mut socket, "POST", path, &body).await;
        assert_eq!(read_answer(&mut socket).await.status, status);
    }
    // Nobody reads for ever.
    let mut endless = server.connect().await;
    endless.write_all(head(1 << 40).as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut endless).await.status, 413);
    let megabyte = vec![b' '; 1 << 20];
    let mut sent = 0;
    while sent < 1000 && endless.write_all(&megabyte).await.is_ok() {
        sent += 1;
    }
    assert!(sent < 100, "{sent} MB were taken");
}

#[tokio::test]
async fn a_client_that_waits_to_be_asked_for_its_body_is_told_without_it() {
    let server = server(Vec::new());
    let mut socket = server.connect().await;
    let head = head(5_000_000).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut socket).await.status, 413);
    assert!(is_closed(&mut socket).await);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_and_ends_its_connection_alone() {
    let config = bounded(TransportConfig {
        head_bytes_max: 8 << 10,
        headers_max: 20,
        ..TransportConfig::default()
    });
    let server = server_with(Vec::new(), config, u64::MAX);
    let long = format!("X: {}", "x".repeat(10_000));
    let path = format!("GET /{} HTTP/1.1", "x".repeat(10_000));
    for (first, lines) in [
        ("GET /health HTTP/1.1", vec!["Host: localhost", &long]),
        ("GET /health HTTP/1.1", vec!["Host: localhost"; 21]),
        (&path, vec!["Host: localhost"]),
    ] {
        let mut socket = server.connect().await;
        send_head(&mut socket, first, &lines, "").await;
        let answer = read_until(&mut socket, "the end of the connection").await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    assert_eq!(server.ask("GET", "/health", "").await.status, 200);
}

#[tokio::test]
async fn a_thousand_streams_at_once_are_all_taken() {
    const STREAMS: usize = 1000;
    crate::config::raise_descriptors();
    let script = || vec![say("text"), Act::Finish(Finish::Stop)];
    let server = server((0..STREAMS).map(|_| script()).collect());
    let mut sockets = Vec::new();
    for _ in 0..STREAMS {
        sockets.push(server.connect().await);
    }
    let long = json!({ "prompt": "a", "stream": true, "user": "x".repeat(100_000) }).to_string();
    for socket in &mut sockets {
        send(socket, "POST", PLAIN, &long).await;
    }
    for socket in &mut sockets {
        assert_eq!(read_answer(socket).await.status, 200);
    }
}

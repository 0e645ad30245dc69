//! Clients that leave, stall or never begin, and a server that fails under them.

use super::super::HttpConfig;
use super::client::{SOON, bounded, read_answer, read_until, send, server, server_with};
use crate::front::FailKind;
use crate::front::testing::{Act, say};
use crate::sched::Finish;
use crate::transport::TransportConfig;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

const PLAIN: &str = "/v1/completions";

fn streamed() -> String {
    json!({ "prompt": "a", "stream": true }).to_string()
}

#[tokio::test]
async fn an_error_in_a_stream_is_its_last_event() {
    let failing = vec![say("text"), Act::Fail(FailKind::WorkerLost, "rank 1: killed by signal 9")];
    let server = server(vec![failing.clone(), failing]);
    let mut socket = server.connect().await;
    send(&mut socket, "POST", PLAIN, &streamed()).await;
    let answer = read_answer(&mut socket).await;
    assert_eq!(answer.status, 200);
    assert!(!answer.body.contains("[DONE]"), "{}", answer.body);
    let chunks = answer.chunks();
    assert_eq!(chunks[0]["choices"][0]["text"], "text");
    let error = &chunks.last().unwrap()["error"];
    assert_eq!(error["message"], "rank 1: killed by signal 9");
    assert_eq!(error["code"], "worker_lost");
    assert_eq!(read_until(&mut socket, "anything").await, "", "the connection ends");

    let answer = server.post(PLAIN, &json!({ "prompt": "a" })).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["error"]["message"], "rank 1: killed by signal 9");
}

#[tokio::test]
async fn failures_of_one_request_have_their_status() {
    let kinds = [
        (FailKind::NonFinite, 500),
        (FailKind::Internal, 500),
        (FailKind::QueueTimeout, 503),
        (FailKind::Shutdown, 503),
    ];
    let scripts = kinds.map(|(kind, _)| vec![Act::Fail(kind, "cause")]);
    let server = server(scripts.into());
    for (kind, status) in kinds {
        let answer = server.post(PLAIN, &json!({ "prompt": "a" })).await;
        assert_eq!(answer.status, status, "{kind:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_cancelled() {
    let mut server = server(vec![vec![say("text"), Act::Hold], vec![Act::Hold]]);
    let mut socket = server.connect().await;
    send(&mut socket, "POST", PLAIN, &streamed()).await;
    read_until(&mut socket, "text").await;
    drop(socket);
    let first = timeout(SOON, server.scripted.cancelled.recv()).await.unwrap();
    assert!(first.is_some());

    let mut socket = server.connect().await;
    send(&mut socket, "POST", PLAIN, "{\"prompt\": \"a\"}").await;
    server.scripted.seen.recv().await.unwrap();
    server.scripted.seen.recv().await.unwrap();
    drop(socket);
    let second = timeout(SOON, server.scripted.cancelled.recv()).await.unwrap();
    assert!(second.is_some() && second != first, "a whole answer is given up too");
}

/// Says more than the server's side of a socket holds (4 MiB), and does not end.
fn flood() -> Vec<Act> {
    let mut acts = vec![Act::Say(vec![b'x'; 64 << 10]); 96];
    acts.push(Act::Hold);
    acts
}

#[tokio::test]
async fn a_write_that_stalls_ends_the_connection() {
    let config = bounded(TransportConfig {
        write_timeout: Duration::from_millis(200),
        ..TransportConfig::default()
    });
    let good = vec![say("good"), Act::Finish(Finish::Stop)];
    let mut server = server_with(vec![flood(), good], config, u64::MAX);
    let mut socket = server.connect_small().await;
    send(&mut socket, "POST", PLAIN, &streamed()).await;
    server.scripted.seen.recv().await.unwrap();
    let answer = server.post(PLAIN, &json!({ "prompt": "a" })).await;
    assert_eq!(answer.json()["choices"][0]["text"], "good", "others are not held up");
    let cancelled = timeout(SOON, server.scripted.cancelled.recv()).await.unwrap();
    assert!(matches!(cancelled, Some((_, 0))), "{cancelled:?}");
}

#[tokio::test]
async fn unread_text_over_the_cap_cancels_the_slow_reader() {
    let mut server = server_with(vec![flood()], HttpConfig::default(), 1 << 20);
    let mut socket = server.connect_small().await;
    send(&mut socket, "POST", PLAIN, &streamed()).await;
    let (_, unread) = timeout(SOON, server.scripted.cancelled.recv()).await.unwrap().unwrap();
    assert!(unread <= 1 << 20);
    let text = read_until(&mut socket, "slow_reader").await;
    assert!(text.contains("slow_reader") && !text.contains("[DONE]"));
}

#[tokio::test]
async fn a_slow_reader_gets_everything_in_fewer_pieces() {
    let acts = (0..500).map(|_| say("word ")).chain([Act::Finish(Finish::Stop)]).collect();
    let server = server(vec![acts]);
    let mut socket = server.connect().await;
    send(&mut socket, "POST", PLAIN, &streamed()).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let answer = read_answer(&mut socket).await;
    let chunks = answer.chunks();
    let texts = chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap());
    assert_eq!(texts.collect::<String>(), "word ".repeat(500));
}

#[tokio::test]
async fn heads_and_bodies_have_their_time() {
    let short = Duration::from_millis(150);
    let config = bounded(TransportConfig {
        head_timeout: short,
        idle_timeout: short,
        ..TransportConfig::default()
    });
    let config = HttpConfig { body_timeout: short, ..config };
    let server = server_with(Vec::new(), config, u64::MAX);
    let begin = Instant::now();
    let mut silent = server.connect().await;
    let mut slow_head = server.connect().await;
    slow_head.write_all(b"POST /v1/completions HTTP/1.1\r\nHost:").await.unwrap();
    let mut slow_body = server.connect().await;
    let head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    slow_body.write_all(head).await.unwrap();
    assert_eq!(read_answer(&mut slow_body).await.status, 408);
    for socket in [&mut silent, &mut slow_head] {
        let mut rest = Vec::new();
        timeout(SOON, socket.read_to_end(&mut rest)).await.unwrap().unwrap();
    }
    assert!(begin.elapsed() >= short);
}

#[tokio::test]
async fn a_silent_stream_shows_signs_of_life() {
    let comment_interval = Duration::from_millis(50);
    let config = HttpConfig { comment_interval, ..HttpConfig::default() };
    let server = server_with(vec![vec![say("text"), Act::Hold]], config, u64::MAX);
    let mut socket = server.connect().await;
    send(&mut socket, "POST", PLAIN, &streamed()).await;
    read_until(&mut socket, ": still here\n\n").await;
    read_until(&mut socket, ": still here\n\n").await;
}

#[tokio::test]
async fn shutdown_lets_answers_end_and_cuts_what_does_not() {
    let ending = vec![say("text"), Act::Finish(Finish::Stop)];
    let config = bounded(TransportConfig {
        linger: Duration::from_millis(200),
        ..TransportConfig::default()
    });
    let server = server_with(vec![vec![say("text"), Act::Hold], ending], config, u64::MAX);
    let mut held = server.connect().await;
    send(&mut held, "POST", PLAIN, &streamed()).await;
    read_until(&mut held, "text").await;
    let mut idle = server.connect().await;
    send(&mut idle, "POST", PLAIN, &streamed()).await;
    assert!(read_answer(&mut idle).await.body.ends_with("data: [DONE]\n\n"));
    server.shutdown.send(()).unwrap();
    timeout(SOON, server.served).await.unwrap().unwrap().unwrap();
    assert_eq!(read_until(&mut idle, "anything").await, "", "idle connections end at once");
    assert!(!read_until(&mut held, "anything").await.contains("[DONE]"));
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err());
}

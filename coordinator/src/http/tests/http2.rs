//! HTTP/2 without TLS, on the port of HTTP/1.1.

use super::super::HttpConfig;
use super::client::{SOON, bounded, read_until, send, server, server_with};
use super::http2_client::{Http2Client, next_piece, read};
use crate::front::testing::{Act, say};
use crate::front::{FailKind, Readiness};
use crate::sched::Finish;
use crate::transport::TransportConfig;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

const PLAIN: &str = "/v1/completions";
const WHOLE: &str = "{\"prompt\": \"a\"}";
const STREAMED: &str = "{\"prompt\": \"a\", \"stream\": true}";

fn answer(text: &str) -> Vec<Act> {
    vec![say(text), Act::Finish(Finish::Stop)]
}

#[tokio::test]
async fn http2_and_http1_are_spoken_on_one_port() {
    let server = server(vec![answer("one"), answer("two"), answer("three")]);
    let client = Http2Client::new(&server).await;
    let whole = client.ask("POST", PLAIN, WHOLE).await;
    assert_eq!((whole.status.as_u16(), &whole.json()["choices"][0]["text"]), (200, &"one".into()));
    let streamed = client.ask("POST", PLAIN, STREAMED).await;
    assert!(streamed.body.contains("\"text\":\"two\""), "{streamed:?}");
    assert!(streamed.body.ends_with("data: [DONE]\n\n"), "{streamed:?}");
    assert_eq!(server.ask("POST", PLAIN, WHOLE).await.json()["choices"][0]["text"], "three");
    assert_eq!(client.ask("GET", "/v1/nothing", "").await.status, 404);
    assert_eq!(client.ask("GET", PLAIN, "").await.status, 405);
}

#[tokio::test]
async fn a_request_of_http1_may_come_in_pieces_that_http2_could_begin_with() {
    let server = server(Vec::new());
    for pieces in [["P", "ATCH /health HTTP/1.1\r\n"], ["PRI * HTTP/2.0\r\n", "\r\nSM\r\n\rX"]] {
        let mut socket = server.connect().await;
        for piece in pieces {
            socket.write_all(piece.as_bytes()).await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
        socket.write_all(b"Host: localhost\r\n\r\n").await.unwrap();
        let answer = read_until(&mut socket, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer:?}");
    }
    // A piece and an end of sending is an end, and costs nothing.
    let mut socket = server.connect().await;
    socket.write_all(b"PRI * HT").await.unwrap();
    socket.shutdown().await.unwrap();
    let mut rest = Vec::new();
    timeout(SOON, socket.read_to_end(&mut rest)).await.unwrap().unwrap();
}

#[tokio::test]
async fn answers_of_one_connection_do_not_wait_for_each_other() {
    let held = vec![say("held"), Act::Hold];
    let mut server = server(vec![held, answer("quick")]);
    let client = Http2Client::new(&server).await;
    let held = client.send("POST", PLAIN, STREAMED).await;
    let (_, mut stream) = timeout(SOON, held).await.unwrap().unwrap().into_parts();
    assert!(next_piece(&mut stream).await.unwrap().unwrap().starts_with(b"data: "));
    assert_eq!(client.ask("POST", PLAIN, WHOLE).await.json()["choices"][0]["text"], "quick");
    assert!(server.scripted.cancelled.try_recv().is_err());
}

#[tokio::test]
async fn a_request_that_is_taken_back_is_cancelled_alone() {
    let held = || vec![say("held"), Act::Hold];
    let server_scripts = vec![held(), held(), answer("after")];
    let mut server = server(server_scripts);
    let client = Http2Client::new(&server).await;
    // One before its answer has begun, and one within it.
    let whole = client.send("POST", PLAIN, WHOLE).await;
    server.scripted.seen.recv().await.unwrap();
    drop(whole);
    assert!(timeout(SOON, server.scripted.cancelled.recv()).await.unwrap().is_some());
    let streamed = client.send("POST", PLAIN, STREAMED).await;
    let (_, stream) = timeout(SOON, streamed).await.unwrap().unwrap().into_parts();
    drop(stream);
    assert!(timeout(SOON, server.scripted.cancelled.recv()).await.unwrap().is_some());
    assert_eq!(client.ask("POST", PLAIN, WHOLE).await.json()["choices"][0]["text"], "after");
}

#[tokio::test]
async fn a_client_that_closes_its_connection_takes_all_its_requests_back() {
    let held = || vec![say("held"), Act::Hold];
    let mut server = server(vec![held(), held(), held()]);
    let client = Http2Client::new(&server).await;
    let mut answers = Vec::new();
    for body in [STREAMED, WHOLE, STREAMED] {
        answers.push(client.send("POST", PLAIN, body).await);
        server.scripted.seen.recv().await.unwrap();
    }
    client.connection.abort();
    for _ in 0..3 {
        assert!(timeout(SOON, server.scripted.cancelled.recv()).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn an_error_in_a_stream_ends_it_and_not_its_connection() {
    let failing = vec![say("text"), Act::Fail(FailKind::NonFinite, "not finite")];
    let server = server(vec![failing, answer("after")]);
    let client = Http2Client::new(&server).await;
    let failed = client.ask("POST", PLAIN, STREAMED).await;
    assert!(failed.body.contains("non_finite") && !failed.body.contains("[DONE]"), "{failed:?}");
    assert_eq!(client.ask("POST", PLAIN, WHOLE).await.json()["choices"][0]["text"], "after");
}

#[tokio::test]
async fn a_silent_stream_shows_signs_of_life() {
    let comment_interval = Duration::from_millis(50);
    let config = HttpConfig { comment_interval, ..HttpConfig::default() };
    let server = server_with(vec![vec![say("text"), Act::Hold]], config, u64::MAX);
    let client = Http2Client::new(&server).await;
    let answer = client.send("POST", PLAIN, STREAMED).await;
    let (_, mut stream) = timeout(SOON, answer).await.unwrap().unwrap().into_parts();
    next_piece(&mut stream).await.unwrap().unwrap();
    assert_eq!(next_piece(&mut stream).await.unwrap().unwrap(), ": still here\n\n");
}

#[tokio::test]
async fn draining_ends_connections_after_their_answers_and_serves_new_ones() {
    let slow = vec![say("slow "), Act::Wait(Duration::from_millis(200)), say("end")];
    let slow = || [slow.clone(), vec![Act::Finish(Finish::Stop)]].concat();
    let mut server = server(vec![slow(), slow()]);
    let client = Http2Client::new(&server).await;
    let running = client.send("POST", PLAIN, STREAMED).await;
    server.scripted.seen.recv().await.unwrap();
    let mut socket = server.connect().await;
    send(&mut socket, "POST", PLAIN, STREAMED).await;
    server.scripted.seen.recv().await.unwrap();
    let mut idle = server.connect().await;
    send(&mut idle, "GET", "/health", "").await;
    read_until(&mut idle, "\"ready\"}").await;

    server.scripted.readiness.send_replace(Readiness::Draining);
    assert_eq!(read_until(&mut idle, "anything").await, "", "nothing is asked on it");
    let answer = read(running).await;
    assert!(answer.body.contains("end") && answer.body.ends_with("[DONE]\n\n"), "{answer:?}");
    timeout(SOON, client.connection).await.expect("GOAWAY").unwrap().unwrap();
    let answer = read_until(&mut socket, "the end").await;
    assert!(answer.contains("data: [DONE]") && answer.ends_with("0\r\n\r\n"), "{answer}");
    assert_eq!(server.ask("GET", "/health", "").await.status, 503);
    let late = Http2Client::new(&server).await;
    assert_eq!(late.ask("POST", PLAIN, WHOLE).await.status, 503);
}

#[tokio::test]
async fn shutdown_lets_answers_end_and_cuts_what_does_not() {
    let linger = Duration::from_millis(200);
    let config = bounded(TransportConfig { linger, ..TransportConfig::default() });
    let ending = vec![say("text"), Act::Wait(linger / 4), Act::Finish(Finish::Stop)];
    let mut server = server_with(vec![vec![say("text"), Act::Hold], ending], config, u64::MAX);
    let client = Http2Client::new(&server).await;
    let held = client.send("POST", PLAIN, STREAMED).await;
    server.scripted.seen.recv().await.unwrap();
    let ending = client.send("POST", PLAIN, STREAMED).await;
    server.scripted.seen.recv().await.unwrap();
    server.shutdown.send(()).unwrap();
    assert!(read(ending).await.body.ends_with("data: [DONE]\n\n"));
    timeout(SOON, server.served).await.unwrap().unwrap().unwrap();
    let (_, mut stream) = held.await.unwrap().into_parts();
    next_piece(&mut stream).await.unwrap().unwrap();
    assert!(next_piece(&mut stream).await.unwrap().is_err(), "it does not look complete");
}

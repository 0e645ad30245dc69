//! Clients that leave, in every way, and clients that only stop sending.

use super::client::{SOON, Server, read_answer, read_until, send, server};
use crate::front::testing::{Act, say};
use crate::sched::Finish;
use rustix::net::sockopt::set_socket_linger;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const PLAIN: &str = "/v1/completions";
/// Bytes that a client sent behind its request.
const BEHIND: [&str; 5] =
    ["", "\r\n", "G", "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", "A FEW HUNDRED KB"];

fn body(stream: bool) -> String {
    json!({ "prompt": "a", "stream": stream }).to_string()
}

/// A request whose answer has begun and does not end, with bytes behind it.
async fn asked(server: &mut Server, stream: bool, behind: &str) -> TcpStream {
    let mut socket = server.connect().await;
    send(&mut socket, "POST", PLAIN, &body(stream)).await;
    server.scripted.seen.recv().await.unwrap();
    let behind = match behind {
        "A FEW HUNDRED KB" => format!("GET /health HTTP/1.1\r\nX: {}", "x".repeat(300_000)),
        short => short.to_owned(),
    };
    // The server does not read all of it, which must not make the client wait.
    let _ = timeout(Duration::from_millis(100), socket.write_all(behind.as_bytes())).await;
    socket
}

#[tokio::test]
async fn a_client_that_closes_its_socket_is_cancelled_whatever_it_sent_behind_its_request() {
    let scripts = BEHIND.map(|_| vec![say("text"), Act::Hold]);
    let mut server = server([scripts.clone(), scripts].concat());
    for stream in [true, false] {
        for behind in BEHIND {
            let socket = asked(&mut server, stream, behind).await;
            drop(socket);
            let cancelled = timeout(SOON, server.scripted.cancelled.recv()).await;
            assert!(cancelled.is_ok(), "stream: {stream}, {behind:?} behind the request");
        }
    }
}

#[tokio::test]
async fn a_client_that_resets_its_connection_is_cancelled_whatever_it_sent_behind_its_request() {
    let scripts = BEHIND.map(|_| vec![Act::Hold]);
    let mut server = server([scripts.clone(), scripts].concat());
    for stream in [true, false] {
        for behind in BEHIND {
            let socket = asked(&mut server, stream, behind).await;
            set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
            drop(socket);
            let cancelled = timeout(SOON, server.scripted.cancelled.recv()).await;
            assert!(cancelled.is_ok(), "stream: {stream}, {behind:?} behind the request");
        }
    }
}

#[tokio::test]
async fn a_client_that_stops_sending_gets_its_whole_answer() {
    // As slow as this, the server has to find out whether somebody waits.
    let slow = || vec![say("one "), Act::Wait(Duration::from_millis(400)), say("two")];
    let quick = || vec![say("one "), say("two")];
    let ended = |mut acts: Vec<Act>| {
        acts.push(Act::Finish(Finish::Stop));
        acts
    };
    let scripts = [quick(), slow(), quick(), slow()];
    let server = server(scripts.map(ended).into());
    for stream in [true, true, false, false] {
        let mut socket = server.connect().await;
        send(&mut socket, "POST", PLAIN, &body(stream)).await;
        socket.shutdown().await.unwrap();
        let answer = read_answer(&mut socket).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let text = if stream {
            assert_eq!(answer.events().last(), Some(&"[DONE]"));
            let chunks = answer.chunks();
            chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap()).collect()
        } else {
            answer.json()["choices"][0]["text"].as_str().unwrap().to_owned()
        };
        assert_eq!(text, "one two", "{answer:?}");
        let mut rest = Vec::new();
        timeout(SOON, socket.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert!(rest.is_empty(), "the connection ends with the answer");
    }
}

#[tokio::test]
async fn a_failure_is_no_answer_to_a_client_that_stopped_sending() {
    let failing = Act::Fail(crate::front::FailKind::Internal, "broken");
    let server = server(vec![vec![Act::Wait(Duration::from_millis(300)), failing]]);
    let mut socket = server.connect().await;
    send(&mut socket, "POST", PLAIN, &body(false)).await;
    socket.shutdown().await.unwrap();
    let answer = read_until(&mut socket, "never").await;
    assert!(!answer.ends_with("0\r\n\r\n"), "cut off: {answer}");
}

#[tokio::test]
async fn requests_that_follow_on_a_connection_are_answered_in_order() {
    let scripts = (0..3).map(|count| vec![say(&count.to_string()), Act::Finish(Finish::Stop)]);
    let server = server(scripts.collect());
    let mut socket = server.connect().await;
    for _ in 0..3 {
        send(&mut socket, "POST", PLAIN, &body(false)).await;
    }
    for count in 0..3 {
        let answer = read_until(&mut socket, "total_tokens").await;
        assert!(answer.contains(&format!("\"text\":\"{count}\"")), "{answer}");
        sleep(Duration::from_millis(10)).await;
    }
}

//! Every response carries the id of its request, and every error says it.

use super::super::HttpConfig;
use super::client::{Answer, Server, read_answer, read_until, send_head, server, server_with};
use super::http2_client::Http2Client;
use crate::front::FailKind;
use crate::front::testing::{Act, say};
use crate::sched::Finish;
use crate::transport::{Access, AllowedHost};
use std::collections::BTreeSet;

const PLAIN: &str = "/v1/completions";
const JSON: &str = "Content-Type: application/json";

async fn ask(server: &Server, first: &str, lines: &[&str], body: &str) -> Answer {
    let mut socket = server.connect().await;
    send_head(&mut socket, &format!("{first} HTTP/1.1"), lines, body).await;
    read_answer(&mut socket).await
}

fn id(answer: &Answer) -> &str {
    let mut ids = answer.head.lines().filter_map(|line| line.strip_prefix("x-request-id: "));
    let id = ids.next().unwrap_or_else(|| panic!("no id: {}", answer.head));
    assert_eq!(ids.next(), None, "{}", answer.head);
    id
}

#[tokio::test]
async fn an_id_comes_back_as_it_was_given_and_in_errors_too() {
    let answers = vec![vec![say("text"), Act::Finish(Finish::Stop)]; 2];
    let server = server(answers);
    let given = "X-Request-Id: trace/7.a-b_c=d:e";
    for (first, body, status) in [
        ("GET /health", "", 200),
        ("GET /v1/models", "", 200),
        (&format!("POST {PLAIN}"), "{\"prompt\": \"a\"}", 200),
        (&format!("POST {PLAIN}"), "{\"prompt\": \"a\", \"stream\": true}", 200),
        (&format!("POST {PLAIN}"), "{\"prompt\": 5}", 400),
        (&format!("POST {PLAIN}"), "no JSON", 400),
        ("GET /v1/nothing", "", 404),
        ("DELETE /v1/models", "", 405),
    ] {
        let answer = ask(&server, first, &["Host: localhost", JSON, given], body).await;
        assert_eq!((answer.status, id(&answer)), (status, "trace/7.a-b_c=d:e"), "{first}");
        if status >= 400 {
            let error = &answer.json()["error"];
            assert_eq!(error["request_id"], "trace/7.a-b_c=d:e", "{answer:?}");
            assert!(error["message"].is_string() && error["type"].is_string(), "{error}");
        }
    }
    let refused = ask(&server, "GET /health", &["Host: evil.example", given], "").await;
    assert_eq!((refused.status, id(&refused)), (403, "trace/7.a-b_c=d:e"));
    assert_eq!(refused.json()["error"]["request_id"], "trace/7.a-b_c=d:e");
}

#[tokio::test]
async fn whoever_gives_no_id_or_one_that_is_none_gets_a_new_one() {
    let server = server(Vec::new());
    let long = format!("X-Request-Id: {}", "x".repeat(129));
    let mut ids = BTreeSet::new();
    for lines in [
        &[] as &[&str],
        &[],
        &["X-Request-Id: "],
        &["X-Request-Id: a b"],
        &["X-Request-Id: käse"],
        &["X-Request-Id: one", "X-Request-Id: two"],
        &[&long],
    ] {
        let lines = [&["Host: localhost"], lines].concat();
        let answer = ask(&server, "GET /health", &lines, "").await;
        assert_eq!((answer.status, id(&answer).len()), (200, 36), "{lines:?}");
        assert!(ids.insert(id(&answer).to_owned()), "no two are the same");
    }
    let client = Http2Client::new(&server).await;
    let answer = client.ask("GET", "/v1/nothing", "").await.json();
    assert!(answer["error"]["request_id"].as_str().unwrap().starts_with("req_"), "{answer}");
}

#[tokio::test]
async fn an_error_within_a_stream_says_the_id() {
    let failing = vec![say("text"), Act::Fail(FailKind::NonFinite, "cause")];
    let access = Access { hosts: vec![AllowedHost::Any], ..Default::default() };
    let config = HttpConfig { access, ..HttpConfig::default() };
    let server = server_with(vec![failing], config, u64::MAX);
    let mut socket = server.connect().await;
    let lines = ["Host: any.example", JSON, "X-Request-Id: mine"];
    let body = "{\"prompt\": \"a\", \"stream\": true}";
    send_head(&mut socket, &format!("POST {PLAIN} HTTP/1.1"), &lines, body).await;
    let text = read_until(&mut socket, "non_finite").await;
    assert!(text.contains("\"request_id\":\"mine\""), "{text}");
}

//! Who is answered: hosts, origins and types of content.

use super::super::HttpConfig;
use super::client::{Answer, Server, read_answer, send_head, server, server_with};
use crate::front::testing::{Act, say};
use crate::sched::Finish;
use crate::transport::{Access, AllowedHost, AllowedOrigin};

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = "{\"messages\": [{\"role\": \"user\", \"content\": \"hello\"}]}";
const JSON: &str = "Content-Type: application/json";

fn scripts(count: usize) -> Vec<Vec<Act>> {
    vec![vec![say("text"), Act::Finish(Finish::Stop)]; count]
}

fn guarded(hosts: &[&str], origins: &[&str]) -> Server {
    let access = Access {
        hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        origins: origins.iter().map(|origin| origin.parse().unwrap()).collect(),
    };
    server_with(scripts(20), HttpConfig { access, ..HttpConfig::default() }, u64::MAX)
}

/// A request with these lines in its head.
async fn ask(server: &Server, method: &str, lines: &[&str]) -> Answer {
    let mut socket = server.connect().await;
    let path = if method == "GET" { "/v1/models" } else { CHAT };
    let body = if method == "POST" { BODY } else { "" };
    send_head(&mut socket, &format!("{method} {path} HTTP/1.1"), lines, body).await;
    read_answer(&mut socket).await
}

async fn status(server: &Server, lines: &[&str]) -> u16 {
    ask(server, "POST", lines).await.status
}

#[tokio::test]
async fn a_body_must_be_json() {
    let server = server(scripts(3));
    for kind in ["application/json", "Application/JSON; charset=utf-8", "application/json;a=b"] {
        let kind = format!("Content-Type: {kind}");
        assert_eq!(status(&server, &["Host: localhost", &kind]).await, 200, "{kind}");
    }
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
        let kind = format!("Content-Type: {kind}");
        let answer = ask(&server, "POST", &["Host: localhost", &kind]).await;
        assert_eq!(answer.status, 415, "{kind}");
        assert!(answer.body.contains("Content-Type: application/json"), "{answer:?}");
    }
    assert_eq!(status(&server, &["Host: localhost"]).await, 415);
}

#[tokio::test]
async fn a_server_on_loopback_answers_to_loopback_names_alone() {
    let server = server(scripts(20));
    let names = ["localhost", "LOCALHOST:8000", "localhost.", "a.localhost", "127.0.0.1:1"];
    for host in names.iter().chain(&["127.8.9.1", "[::1]:80", "[::ffff:127.0.0.1]"]) {
        let line = format!("Host: {host}");
        assert_eq!(status(&server, &[&line, JSON]).await, 200, "{host}");
    }
    let others = ["evil.example", "evil.example:8000", "localhost.evil.example", "192.168.0.1"];
    for host in others.iter().chain(&["0.0.0.0", "notlocalhost", "[::2]", "127.0.0.1.evil.example"])
    {
        let line = format!("Host: {host}");
        let answer = ask(&server, "POST", &[&line, JSON]).await;
        assert_eq!(answer.status, 403, "{host}");
        assert!(answer.body.contains("--allowed-host"), "{answer:?}");
        assert_eq!(ask(&server, "GET", &[&line]).await.status, 403, "{host}");
    }
    assert_eq!(status(&server, &["Host: localhost", "Host: evil.example", JSON]).await, 400);
    assert_eq!(status(&server, &["Host: a b", JSON]).await, 400);
    assert_eq!(status(&server, &[JSON]).await, 400);
}

#[tokio::test]
async fn the_target_of_a_request_goes_before_its_host_header() {
    let server = server(scripts(1));
    let mut socket = server.connect().await;
    let line = format!("POST http://evil.example{CHAT} HTTP/1.1");
    send_head(&mut socket, &line, &["Host: localhost", JSON], BODY).await;
    assert_eq!(read_answer(&mut socket).await.status, 403);
}

#[tokio::test]
async fn http_1_0_may_name_no_host_since_no_browser_speaks_it() {
    let server = server(scripts(1));
    for (lines, status) in [(&[JSON] as &[&str], 200), (&["Host: evil.example", JSON], 403)] {
        let mut socket = server.connect().await;
        send_head(&mut socket, &format!("POST {CHAT} HTTP/1.0"), lines, BODY).await;
        assert_eq!(read_answer(&mut socket).await.status, status, "{lines:?}");
    }
}

#[tokio::test]
async fn a_host_that_was_named_is_answered() {
    let server = guarded(&["llm.example", "::2"], &[]);
    for host in ["llm.example", "LLM.example:99", "[::2]:5", "localhost"] {
        assert_eq!(status(&server, &[&format!("Host: {host}"), JSON]).await, 200, "{host}");
    }
    assert_eq!(status(&server, &["Host: other.example", JSON]).await, 403);
    let server = guarded(&["*"], &[]);
    assert_eq!(status(&server, &["Host: other.example", JSON]).await, 200);
}

#[tokio::test]
async fn pages_of_other_origins_are_refused() {
    let server = server(scripts(20));
    for (host, origin) in [
        ("localhost", "http://localhost"),
        ("localhost:8000", "http://localhost:8000"),
        ("127.0.0.1", "https://127.0.0.1"),
        ("localhost:443", "https://LOCALHOST"),
    ] {
        let lines = [format!("Host: {host}"), format!("Origin: {origin}")];
        assert_eq!(status(&server, &[&lines[0], &lines[1], JSON]).await, 200, "{origin}");
    }
    for origin in
        ["https://evil.example", "http://localhost:3000", "https://localhost", "null", "x", ""]
    {
        let line = format!("Origin: {origin}");
        let answer = ask(&server, "POST", &["Host: localhost:8000", &line, JSON]).await;
        assert_eq!(answer.status, 403, "{origin}");
        assert!(answer.body.contains("--allowed-origin"), "{answer:?}");
        assert!(!answer.head.contains("access-control"), "{answer:?}");
        let preflight = ["Host: localhost:8000", &line, "Access-Control-Request-Method: POST"];
        assert_eq!(ask(&server, "OPTIONS", &preflight).await.status, 403, "{origin}");
    }
}

#[tokio::test]
async fn pages_of_an_origin_that_was_named_may_ask() {
    let named = guarded(&[], &["https://App.example:443/", "http://localhost:3000"]);
    let any = guarded(&[], &["*"]);
    for (server, origin, allowed) in [
        (&named, "https://app.example", "https://app.example"),
        (&named, "http://localhost:3000", "http://localhost:3000"),
        (&any, "https://evil.example", "*"),
        (&any, "null", "*"),
    ] {
        let line = format!("Origin: {origin}");
        let preflight = [
            "Host: localhost",
            &line,
            "Access-Control-Request-Method: POST",
            "Access-Control-Request-Headers: content-type,authorization",
        ];
        let answer = ask(server, "OPTIONS", &preflight).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let has = |answer: &Answer, line: &str| {
            assert!(answer.head.contains(line), "no {line} in {}", answer.head);
        };
        has(&answer, &format!("access-control-allow-origin: {allowed}"));
        has(&answer, "access-control-allow-methods: get,post");
        has(&answer, "access-control-allow-headers: content-type,authorization");
        let answer = ask(server, "POST", &["Host: localhost", &line, JSON]).await;
        assert_eq!(answer.status, 200);
        has(&answer, &format!("access-control-allow-origin: {allowed}"));
        // A page must see an error, too.
        let answer = ask(server, "POST", &["Host: localhost", &line]).await;
        assert_eq!(answer.status, 415);
        has(&answer, &format!("access-control-allow-origin: {allowed}"));
    }
    let other = ["Host: localhost", "Origin: https://app.example.evil", JSON];
    assert_eq!(status(&named, &other).await, 403);
}

#[test]
fn hosts_and_origins_are_read_from_flags() {
    for wrong in ["", "http://a", "a:80", "a/b", "a b", "u@a"] {
        assert!(wrong.parse::<AllowedHost>().is_err(), "{wrong}");
    }
    for wrong in ["", "a.example", "ftp://a", "http://", "http://a/b", "http://u@a", "https://a b"]
    {
        assert!(wrong.parse::<AllowedOrigin>().is_err(), "{wrong}");
    }
}

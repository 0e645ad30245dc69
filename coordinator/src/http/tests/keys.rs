//! Whoever has no key gets nothing but health, however a path is written.

use super::super::HttpConfig;
use super::super::routes::table;
use super::client::{Server, read_answer, read_until, send_head, server_with};
use super::http2_client::Http2Client;
use crate::front::ApiKeys;
use crate::front::testing::{Act, say};
use crate::sched::Finish;
use crate::transport::Access;
use std::sync::Arc;

const PLAIN: &str = "/v1/completions";
const BODY: &str = "{\"prompt\": \"a\"}";
/// What probes ask, and all that is open.
const HEALTH: [&str; 5] = ["/health", "/health/ready", "/readyz", "/ping", "/livez"];
const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"];

fn locked(origins: &[&str]) -> Server {
    let keys = Arc::new(ApiKeys::new(["key-1", "key-2"]).unwrap());
    let origins = origins.iter().map(|origin| origin.parse().unwrap()).collect();
    let access = Access { origins, ..Access::default() };
    let scripts = vec![vec![say("text"), Act::Finish(Finish::Stop)]; 5];
    server_with(scripts, HttpConfig { keys, access, ..HttpConfig::default() }, u64::MAX)
}

/// Ways to write a path that some router takes for the same.
fn forms(path: &str) -> Vec<String> {
    let encoded =
        |at: usize| format!("{}%{:02x}{}", &path[..at], path.as_bytes()[at], &path[at + 1..]);
    let last = path.rfind('/').unwrap();
    vec![
        path.to_owned(),
        format!("{path}?a=b"),
        format!("{path}/"),
        format!("{path}//"),
        format!("/{path}"),
        format!("{}/{}", &path[..last], &path[last..]),
        format!("/.{path}"),
        format!("/a/..{path}"),
        format!("/health/..{path}"),
        format!("/health{path}"),
        format!("/health?{path}"),
        format!("/health/%2e%2e{path}"),
        format!("{path}/."),
        format!("{path}/../../../health"),
        format!("{path}/%2e%2e/health"),
        format!("{path};/health"),
        format!("{path}%00"),
        format!("{path}%20"),
        format!("{path}.json"),
        encoded(1),
        encoded(last),
        encoded(path.len() - 1),
        path.to_ascii_uppercase(),
        path.replace('/', "\\"),
        format!("http://localhost{path}"),
        format!("http://localhost/{path}"),
    ]
}

/// The status of a request without a key.
async fn status(server: &Server, method: &str, target: &str) -> u16 {
    let mut socket = server.connect().await;
    let lines = ["Host: localhost", "Content-Type: application/json", "Connection: close"];
    send_head(&mut socket, &format!("{method} {target} HTTP/1.1"), &lines, BODY).await;
    let answer = read_until(&mut socket, "the end of the connection").await;
    answer
        .split(' ')
        .nth(1)
        .unwrap_or_else(|| panic!("{method} {target}: {answer}"))
        .parse()
        .unwrap()
}

#[tokio::test]
async fn every_route_but_health_wants_a_key_however_its_path_is_written() {
    let mut server = locked(&[]);
    let routes = table();
    let open = routes.iter().filter(|route| route.is_open).map(|route| route.path);
    assert_eq!(open.collect::<Vec<_>>(), HEALTH);
    let mut refused = 0;
    for route in &routes {
        for target in forms(&route.path.replace("{*name}", "tiny")) {
            let path = target.trim_start_matches("http://localhost").split('?').next().unwrap();
            let is_open = routes.iter().any(|route| route.is_open && route.path == path);
            for method in METHODS {
                let status = status(&server, method, &target).await;
                // A target that is none is refused before anybody looks at it.
                let expected = if is_open { &[200, 405][..] } else { &[401, 400][..] };
                assert!(expected.contains(&status), "{method} {target}: {status}");
                refused += usize::from(status == 401);
            }
        }
    }
    assert!(refused > 900, "{refused}");
    for target in ["*", "/", "/v1", "/openapi.json", "/metrics"] {
        assert_eq!(status(&server, "OPTIONS", target).await, 401, "{target}");
    }
    assert!(server.scripted.seen.try_recv().is_err(), "nothing was asked of the model");
}

#[tokio::test]
async fn a_key_opens_everything_and_what_is_none_opens_nothing() {
    let server = locked(&[]);
    for (line, expected) in [
        ("Authorization: Bearer key-1", 200),
        ("authorization: bearer key-2", 200),
        ("Authorization: Bearer key-3", 401),
        ("Authorization: Bearer key-1key-2", 401),
        ("Authorization: Basic key-1", 401),
        ("X-Api-Key: key-1", 401),
        ("Cookie: key-1", 401),
    ] {
        let mut socket = server.connect().await;
        let lines = ["Host: localhost", "Content-Type: application/json", line];
        send_head(&mut socket, &format!("POST {PLAIN} HTTP/1.1"), &lines, BODY).await;
        let answer = read_answer(&mut socket).await;
        assert_eq!(answer.status, expected, "{line}");
        if expected == 401 {
            let error = &answer.json()["error"];
            assert_eq!(error["type"], "invalid_request_error");
            assert_eq!((&error["code"], &error["param"]), (&"invalid_api_key".into(), &().into()));
            assert!(answer.head.contains("www-authenticate: bearer"), "{answer:?}");
            assert!(!answer.body.contains("key-"), "no key is repeated: {answer:?}");
        }
    }
    let answer = server.ask("GET", "/health", "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn keys_hold_over_http2() {
    let server = locked(&[]);
    let client = Http2Client::new(&server).await;
    assert_eq!(client.ask("GET", "/v1/models", "").await.status, 401);
    assert_eq!(client.ask("POST", PLAIN, BODY).await.status, 401);
    assert_eq!(client.ask("GET", "/health", "").await.status, 200);
}

#[tokio::test]
async fn a_preflight_needs_no_key_and_says_no_more_than_that_a_page_may_ask() {
    let server = locked(&["https://page.example"]);
    let mut socket = server.connect().await;
    let lines = [
        "Host: localhost",
        "Origin: https://page.example",
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: authorization",
    ];
    send_head(&mut socket, &format!("OPTIONS {PLAIN} HTTP/1.1"), &lines, "").await;
    let answer = read_answer(&mut socket).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert!(answer.head.contains("access-control-allow-headers: authorization"), "{answer:?}");
    // Pages see why they are refused.
    let lines = ["Host: localhost", "Origin: https://page.example"];
    send_head(&mut socket, "GET /v1/models HTTP/1.1", &lines, "").await;
    let answer = read_answer(&mut socket).await;
    assert_eq!(answer.status, 401);
    assert!(answer.head.contains("access-control-allow-origin: https://page.example"));
}

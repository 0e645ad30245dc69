//! Requests that cannot be served: the status, and the field that is named.

use super::client::{Answer, server};
use crate::front::testing::Act;
use crate::sched::Refused;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const PLAIN: &str = "/v1/completions";

fn error(answer: &Answer) -> Value {
    let json = answer.json();
    let error = json["error"].clone();
    assert!(error["message"].is_string() && error["type"].is_string(), "{json}");
    assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
    error
}

/// Sets `field` in a request that is fine otherwise.
fn with(path: &str, field: &str, value: Value) -> Value {
    let mut body = match path {
        CHAT => json!({ "messages": [{ "role": "user", "content": "hello" }] }),
        _ => json!({ "prompt": "hello" }),
    };
    body[field] = value;
    body
}

/// A request with the value is answered by 400, which names the field.
async fn refused(cases: &[(&str, &str, Value)]) {
    let server = server(Vec::new());
    for (path, field, value) in cases {
        let written = field.split('[').next().unwrap();
        let answer = server.post(path, &with(path, written, value.clone())).await;
        assert_eq!(answer.status, 400, "{field} {value}: {answer:?}");
        assert_eq!(error(&answer)["param"], *field, "{field} {value}");
        assert_eq!(error(&answer)["type"], "invalid_request_error");
    }
}

#[tokio::test]
async fn draws_out_of_range_are_refused_by_field() {
    refused(&[
        (PLAIN, "min_p", json!(1.1)),
        (PLAIN, "min_p", json!(-0.1)),
        (PLAIN, "repetition_penalty", json!(0)),
        (PLAIN, "repetition_penalty", json!(1e300)),
        (PLAIN, "presence_penalty", json!(2.5)),
        (PLAIN, "frequency_penalty", json!(-2.5)),
        (PLAIN, "frequency_penalty", json!("a")),
        (PLAIN, "logit_bias", json!([5, 1])),
        (PLAIN, "logit_bias", json!({ "five": 1 })),
        (PLAIN, "logit_bias", json!({ "-5": 1 })),
        (PLAIN, "logit_bias", json!({ "5": "1" })),
        (PLAIN, "logit_bias", json!({ "5": 100.5 })),
        (PLAIN, "logit_bias", json!({ "5": 1, "05": 2 })),
        (PLAIN, "logit_bias", json!({ "264": 1 })),
        (PLAIN, "logit_bias", (0..301).map(|id| (id.to_string(), json!(1))).collect()),
        (PLAIN, "logprobs", json!(true)),
        (PLAIN, "logprobs", json!(6)),
        (PLAIN, "logprobs", json!(-1)),
        (CHAT, "logprobs", json!(1)),
        (CHAT, "top_logprobs", json!(5)),
        (CHAT, "top_logprobs", json!(21)),
    ])
    .await;
}

#[tokio::test]
async fn values_out_of_range_are_refused_by_field() {
    refused(&[
        (PLAIN, "prompt", json!(null)),
        (PLAIN, "prompt", json!(5)),
        (PLAIN, "prompt", json!([])),
        (PLAIN, "prompt", json!([1.5])),
        (PLAIN, "prompt", json!([-1])),
        (PLAIN, "prompt", json!([264])),
        (PLAIN, "prompt", json!(["a", "b"])),
        (PLAIN, "prompt", json!("")),
        (PLAIN, "model", json!(5)),
        (PLAIN, "temperature", json!(-0.1)),
        (PLAIN, "temperature", json!("hot")),
        (PLAIN, "temperature", json!(1e300)),
        (PLAIN, "top_p", json!(-0.1)),
        (PLAIN, "top_p", json!(1.1)),
        (PLAIN, "top_k", json!(-2)),
        (PLAIN, "top_k", json!(0.5)),
        (PLAIN, "max_tokens", json!(0)),
        (PLAIN, "max_tokens", json!(-1)),
        (PLAIN, "max_tokens", json!(1.5)),
        (PLAIN, "max_tokens", json!(5_000_000_000_u64)),
        (PLAIN, "max_tokens", json!(256)),
        (CHAT, "max_completion_tokens", json!(256)),
        (PLAIN, "seed", json!(1.5)),
        (PLAIN, "seed", json!("1")),
        (PLAIN, "stop", json!(5)),
        (PLAIN, "stop", json!([5])),
        (PLAIN, "stop", json!("")),
        (PLAIN, "stop", json!(vec!["x"; 17])),
        (PLAIN, "stream", json!("yes")),
        (PLAIN, "stream_options", json!({ "include_usage": true })),
        (PLAIN, "ignore_eos", json!(1)),
        (CHAT, "messages", json!(null)),
        (CHAT, "messages", json!("hello")),
        (CHAT, "messages", json!([])),
        (CHAT, "messages[0]", json!(["hello"])),
        (CHAT, "messages[0].role", json!([{ "content": "a" }])),
        (CHAT, "messages[0].role", json!([{ "role": "tool", "content": "a" }])),
        (CHAT, "messages[0].role", json!([{ "role": 5, "content": "a" }])),
        (CHAT, "messages[0].content", json!([{ "role": "user" }])),
        (CHAT, "messages[0].content", json!([{ "role": "user", "content": 5 }])),
        (
            CHAT,
            "messages[0].content",
            json!([{ "role": "user", "content": [{ "type": "image_url" }] }]),
        ),
        (
            CHAT,
            "messages[0].tool_calls",
            json!([{ "role": "assistant", "content": "a", "tool_calls": [{}] }]),
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_this_version_lacks_is_refused_by_field() {
    let server = server(Vec::new());
    for (path, field, value) in [
        (PLAIN, "echo", json!(true)),
        (PLAIN, "suffix", json!("a")),
        (PLAIN, "guided_json", json!({})),
        (CHAT, "tools", json!([{ "type": "function" }])),
        (CHAT, "tool_choice", json!("required")),
        (CHAT, "response_format", json!({ "type": "json_object" })),
        (CHAT, "modalities", json!(["text", "audio"])),
        (CHAT, "chat_template", json!("{{ messages }}")),
    ] {
        let answer = server.post(path, &with(path, field, value.clone())).await;
        assert_eq!(answer.status, 400, "{field} {value}: {answer:?}");
        let error = error(&answer);
        assert_eq!(error["param"], field);
        assert!(
            error["message"].as_str().unwrap().contains("this version of binfer does not"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn values_that_ask_for_nothing_are_fine() {
    let neutral = json!({ "n": 1, "logprobs": null, "logit_bias": {}, "presence_penalty": 0,
        "frequency_penalty": 0.0, "tools": [], "tool_choice": "none", "user": "me",
        "response_format": { "type": "text" }, "modalities": ["text"], "stop": null,
        "messages": [{ "role": "user", "content": "hello", "name": "me" }] });
    let server = server(vec![vec![Act::Finish(crate::sched::Finish::Stop)]]);
    assert_eq!(server.post(CHAT, &neutral).await.status, 200);
}

#[tokio::test]
async fn bodies_that_are_not_json_objects() {
    let server = server(Vec::new());
    let deep = "[".repeat(100_000);
    for body in ["", "{", "{\"prompt\": }", "[]", "5", "{\"prompt\": \"\\ud800\"}", &deep] {
        let answer = server.ask("POST", PLAIN, body).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        let message = error(&answer)["message"].to_string();
        assert!(message.contains("JSON"), "{message}");
    }
}

#[tokio::test]
async fn paths_methods_models_and_sizes() {
    let server = server(Vec::new());
    let answer = server.ask("GET", "/v1/nothing", "").await;
    assert_eq!((answer.status, answer.json()["error"]["param"].is_null()), (404, true));
    let answer = server.ask("GET", PLAIN, "").await;
    assert_eq!(answer.status, 405);
    assert!(answer.head.contains("allow: post"), "{}", answer.head);
    let answer = server.post(PLAIN, &with(PLAIN, "model", json!("gpt-4"))).await;
    let error = error(&answer);
    assert_eq!((answer.status, &error["code"]), (404, &json!("model_not_found")));
    assert_eq!(error["param"], "model");
    let large = format!("{{\"prompt\": \"{}\"}}", "x".repeat(4 << 20));
    assert_eq!(server.ask("POST", PLAIN, &large).await.status, 413);
    let long = format!("{{\"prompt\": \"{}\"}}", "x".repeat(100_000));
    let answer = server.ask("POST", PLAIN, &long).await;
    assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!("prompt")));
}

#[tokio::test]
async fn a_full_queue_asks_to_come_again() {
    let full = Refused::QueueFull { requests: 8, tokens: 80 };
    let server = server(vec![vec![Act::Refuse(full)], vec![Act::Refuse(Refused::Draining)]]);
    for status in [429, 503] {
        let answer = server.post(PLAIN, &json!({ "prompt": "a", "stream": true })).await;
        assert_eq!(answer.status, status);
        assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
        error(&answer);
    }
}

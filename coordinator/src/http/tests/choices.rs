//! Several answers to one request.

use super::client::{send, server};
use crate::front::testing::{Act, say};
use crate::sched::{Finish, RequestId};
use crate::text::testing::END;
use serde_json::{Value, json};

const PLAIN: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

fn scripts() -> Vec<Vec<Act>> {
    vec![
        vec![say("one"), Act::Wait(std::time::Duration::from_millis(5)), say("!"), end()],
        vec![say("two"), Act::Finish(Finish::Length)],
        vec![say("th"), say("ree"), end()],
    ]
}

fn end() -> Act {
    Act::EndWith(END)
}

fn ask(path: &str) -> Value {
    let mut body = json!({ "n": 3, "best_of": 3, "seed": 5, "max_tokens": 9 });
    match path {
        CHAT => body["messages"] = json!([{ "role": "user", "content": "hi" }]),
        _ => body["prompt"] = json!([5, 6]),
    }
    body
}

#[tokio::test]
async fn each_answer_has_its_index_and_counts_are_summed() {
    let mut server = server([scripts(), scripts(), scripts(), scripts()].concat());
    for path in [PLAIN, CHAT] {
        let mut body = ask(path);
        body["logprobs"] = if path == CHAT { json!(true) } else { json!(1) };
        body["return_token_ids"] = json!(true);
        let whole = server.post(path, &body).await.json();
        let choices = whole["choices"].as_array().unwrap();
        let text = |choice: &Value| match path {
            CHAT => choice["message"]["content"].clone(),
            _ => choice["text"].clone(),
        };
        assert_eq!(choices.iter().map(text).collect::<Vec<_>>(), ["one!", "two", "three"]);
        assert!(choices.iter().enumerate().all(|(at, choice)| choice["index"] == at));
        let finishes: Vec<&Value> = choices.iter().map(|one| &one["finish_reason"]).collect();
        assert_eq!(finishes, ["stop", "length", "stop"]);
        assert_eq!(whole["usage"]["completion_tokens"], 5 + 3 + 6);
        let mut prompts = Vec::new();
        for choice in 0..3 {
            let request = server.scripted.seen.recv().await.unwrap().request;
            assert_eq!((request.choice, request.seed), (choice, 5));
            prompts.push(request.prompt);
        }
        assert!(prompts.iter().all(|prompt| *prompt == prompts[0]), "{prompts:?}");
        assert_eq!(whole["usage"]["prompt_tokens"], prompts[0].len(), "counted once");

        body["stream"] = json!(true);
        body["stream_options"] = json!({ "include_usage": true });
        let answer = server.post(path, &body).await;
        assert_eq!(answer.events().iter().filter(|event| **event == "[DONE]").count(), 1);
        let chunks = answer.chunks();
        assert_eq!(chunks.last().unwrap()["usage"], whole["usage"]);
        assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
        for (index, choice) in choices.iter().enumerate() {
            let own = chunks.iter().map(|chunk| &chunk["choices"][0]);
            let own: Vec<&Value> = own.filter(|one| one["index"] == index).collect();
            let part = |one: &&Value| match path {
                CHAT => one["delta"]["content"].as_str().map(str::to_owned),
                _ => one["text"].as_str().map(str::to_owned),
            };
            assert_eq!(json!(own.iter().filter_map(part).collect::<String>()), text(choice));
            let last = own.last().unwrap();
            assert_eq!(last["finish_reason"], choice["finish_reason"]);
            let ids = own.iter().filter_map(|one| one["token_ids"].as_array()).flatten();
            assert_eq!(json!(ids.collect::<Vec<_>>()), choice["token_ids"]);
            let (list, of) = match path {
                CHAT => ("content", &choice["logprobs"]["content"]),
                _ => ("tokens", &choice["logprobs"]["tokens"]),
            };
            let found = own.iter().filter_map(|one| one["logprobs"][list].as_array()).flatten();
            assert_eq!(json!(found.collect::<Vec<_>>()), *of);
        }
        for _ in 0..3 {
            server.scripted.seen.recv().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_leaves_all_its_answers() {
    for stream in [true, false] {
        let mut server = server(vec![vec![say("a"), Act::Hold]; 3]);
        let mut body = ask(PLAIN);
        body["stream"] = json!(stream);
        let mut socket = server.connect().await;
        send(&mut socket, "POST", PLAIN, &body.to_string()).await;
        for _ in 0..3 {
            server.scripted.seen.recv().await.unwrap();
        }
        drop(socket);
        let mut left = Vec::new();
        for _ in 0..3 {
            left.push(server.scripted.cancelled.recv().await.unwrap().0);
        }
        left.sort_unstable();
        assert_eq!(left, [1, 2, 3].map(RequestId));
    }
}

#[tokio::test]
async fn an_answer_that_fails_ends_all() {
    use crate::front::FailKind;
    let fails = || vec![say("b"), Act::Fail(FailKind::NonFinite, "not finite")];
    let script = || vec![vec![say("a"), Act::Hold], fails(), vec![say("c"), Act::Hold]];
    let mut server = server([script(), script()].concat());
    let mut body = ask(PLAIN);
    assert_eq!(server.post(PLAIN, &body).await.status, 500);
    body["stream"] = json!(true);
    let answer = server.post(PLAIN, &body).await;
    assert!(!answer.body.contains("[DONE]") && answer.body.contains("not finite"), "{answer:?}");
    let mut left = Vec::new();
    for _ in 0..4 {
        left.push(server.scripted.cancelled.recv().await.unwrap().0);
    }
    left.sort_unstable();
    assert_eq!(left, [1, 3, 4, 6].map(RequestId), "those that did not fail");
}

#[tokio::test]
async fn numbers_of_answers_have_bounds() {
    let server = server(Vec::new());
    for (field, fields, why) in [
        ("n", json!({ "n": 0 }), "is 0, not from 1 to 128"),
        ("n", json!({ "n": 129 }), "is 129, not from 1 to 128"),
        ("n", json!({ "n": -1 }), "from 0 to"),
        ("best_of", json!({ "n": 2, "best_of": 3 }), "must be as many as n, 2"),
        ("best_of", json!({ "best_of": 2 }), "must be as many as n, 1"),
    ] {
        let mut body = json!({ "prompt": "hello" });
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let answer = server.post(PLAIN, &body).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status, &error["param"]), (400, &json!(field)), "{error}");
        assert!(error["message"].as_str().unwrap().contains(why), "{error}");
    }
}

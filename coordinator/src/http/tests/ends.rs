//! What ends an answer, from which token on, and what an answer has beside its text.

use super::client::server;
use crate::front::testing::{Act, say};
use crate::sched::Finish;
use crate::text::testing::{END, byte_tokens};
use serde_json::{Value, json};

const PLAIN: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

fn hi() -> Value {
    json!([{ "role": "user", "content": "hi" }])
}

/// The token of a byte.
fn token(byte: u8) -> u32 {
    byte_tokens(&[byte])[0]
}

#[tokio::test]
async fn a_stop_reason_says_what_the_client_named() {
    let ends = [Act::EndWith(token(b'x')), Act::EndWith(END), Act::EndWith(0), say("bcx!")];
    let script = |end: &Act| vec![say("a"), end.clone(), Act::Finish(Finish::Length)];
    let scripts = ends.iter().flat_map(|end| [script(end), script(end)]).collect();
    let server = server(scripts);
    for reason in [json!(token(b'x')), Value::Null, json!("<|endoftext|>"), json!("cx")] {
        let mut body = json!({ "prompt": "hello", "stop": ["<|endoftext|>", "x!", "cx"],
            "stop_token_ids": [token(b'x'), END] });
        let whole = server.post(PLAIN, &body).await.json();
        let choice = &whole["choices"][0];
        assert_eq!((&choice["stop_reason"], &choice["finish_reason"]), (&reason, &json!("stop")));
        body["stream"] = json!(true);
        let chunks = server.post(PLAIN, &body).await.chunks();
        let last = &chunks.last().unwrap()["choices"][0];
        assert_eq!((&last["stop_reason"], &last["finish_reason"]), (&reason, &json!("stop")));
    }
}

#[tokio::test]
async fn what_ended_an_answer_is_part_of_its_text_where_that_is_asked_for() {
    let by_token = vec![say("ab"), Act::EndWith(token(b'x'))];
    let by_text = vec![say("ab EN"), say("D and more"), Act::Hold];
    let by_control = vec![say("ab"), Act::EndWith(0)];
    let server = server(vec![
        by_token.clone(),
        by_token,
        by_text.clone(),
        by_text,
        by_control.clone(),
        by_control,
    ]);
    for (stop, without, with) in [
        (json!({ "stop_token_ids": [token(b'x')] }), "ab", "abx"),
        (json!({ "stop": "END" }), "ab ", "ab END"),
        (json!({ "stop_token_ids": [0], "skip_special_tokens": false }), "ab", "ab<|endoftext|>"),
    ] {
        let mut body = json!({ "prompt": "hello" });
        body.as_object_mut().unwrap().extend(stop.as_object().unwrap().clone());
        let text = server.post(PLAIN, &body).await.json()["choices"][0]["text"].clone();
        assert_eq!(text, without);
        body["include_stop_str_in_output"] = json!(true);
        let text = server.post(PLAIN, &body).await.json()["choices"][0]["text"].clone();
        assert_eq!(text, with);
    }
}

#[tokio::test]
async fn control_tokens_are_shown_where_that_is_asked_for() {
    let script = vec![Act::Sample(vec![1, token(b'a'), 0]), Act::Finish(Finish::Length)];
    let server = server(vec![script.clone(), script]);
    let mut body = json!({ "prompt": "hello" });
    assert_eq!(server.post(PLAIN, &body).await.json()["choices"][0]["text"], "a");
    body["skip_special_tokens"] = json!(false);
    let shown = server.post(PLAIN, &body).await.json()["choices"][0]["text"].clone();
    assert_eq!(shown, "<|im_start|>a<|endoftext|>");
}

#[tokio::test]
async fn no_stop_string_ends_an_answer_before_its_least_length() {
    let script = vec![say("aXbXcXd"), Act::Finish(Finish::Length)];
    let mut server = server((0..4).map(|_| script.clone()).collect());
    for (least, text) in [(0, "a"), (1, "a"), (2, "aXb"), (6, "aXbXcXd")] {
        let body = json!({ "prompt": "hello", "stop": "X", "min_tokens": least, "max_tokens": 9 });
        let answer = server.post(PLAIN, &body).await.json();
        assert_eq!(answer["choices"][0]["text"], text, "{least}");
        let request = server.scripted.seen.recv().await.unwrap().request;
        let Some(masked) = request.least else {
            assert_eq!(least, 0);
            continue;
        };
        // Everything but the model's end token may be sampled meanwhile.
        assert_eq!(masked.tokens, least);
        assert_eq!((masked.allowed[0], masked.allowed[1]), (!(1 << END), 0xFF));
    }
}

#[tokio::test]
async fn token_ids_come_beside_the_text_and_say_what_ended_it() {
    let script = vec![say("ab"), say("c"), Act::EndWith(END)];
    let server = server((0..4).map(|_| script.clone()).collect());
    let answer: Vec<u32> = byte_tokens(b"abc").into_iter().chain([END]).collect();
    for path in [PLAIN, CHAT] {
        let mut body = json!({ "return_token_ids": true });
        if path == CHAT {
            body["messages"] = hi();
        } else {
            body["prompt"] = json!([5, 6]);
        }
        let whole = server.post(path, &body).await.json();
        assert_eq!(whole["choices"][0]["token_ids"], json!(answer));
        let place = if path == CHAT { &whole } else { &whole["choices"][0] };
        let prompt = place["prompt_token_ids"].clone();
        assert_eq!(prompt.as_array().unwrap().len(), whole["usage"]["prompt_tokens"]);

        body["stream"] = json!(true);
        let chunks = server.post(path, &body).await.chunks();
        let first = if path == CHAT { &chunks[0] } else { &chunks[0]["choices"][0] };
        assert_eq!(first["prompt_token_ids"], prompt);
        let ids = chunks.iter().filter_map(|chunk| chunk["choices"][0]["token_ids"].as_array());
        assert_eq!(json!(ids.flatten().collect::<Vec<_>>()), json!(answer));
    }
}

#[tokio::test]
async fn every_chunk_has_the_counts_so_far_where_that_is_asked_for() {
    let script = || vec![say("ab"), Act::Wait(std::time::Duration::from_millis(5)), say("c")];
    let script = || [script(), vec![Act::EndWith(END)]].concat();
    let server = server(vec![script(), script()]);
    for at_end in [false, true] {
        let options = json!({ "continuous_usage_stats": true, "include_usage": at_end });
        let body = json!({ "messages": hi(), "stream": true, "stream_options": options });
        let chunks = server.post(CHAT, &body).await.chunks();
        let counts: Vec<u64> = chunks
            .iter()
            .map(|chunk| chunk["usage"]["completion_tokens"].as_u64().unwrap())
            .collect();
        assert!(counts.is_sorted() && counts[0] == 0 && counts.last() == Some(&4), "{counts:?}");
        let texts = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str());
        assert_eq!(texts.collect::<String>(), "abc");
        assert_eq!(chunks.last().unwrap()["choices"] == json!([]), at_end);
    }
}

#[tokio::test]
async fn prompts_are_cut_and_caches_are_kept_apart_as_asked() {
    let mut server = server((0..7).map(|_| vec![Act::Finish(Finish::Stop)]).collect());
    let long: Vec<u32> = (0..300).map(|at| at % 256).collect();
    for (cut, max_tokens, kept) in [(json!(3), 1, 3), (json!(-1), 6, 250), (json!(256), 1, 0)] {
        let body = json!({ "prompt": long, "truncate_prompt_tokens": cut,
            "max_tokens": max_tokens });
        let answer = server.post(PLAIN, &body).await;
        if kept == 0 {
            assert_eq!(answer.status, 400, "it leaves no room for an answer");
            continue;
        }
        let prompt = server.scripted.seen.recv().await.unwrap().request.prompt;
        assert_eq!(prompt, long[long.len() - kept..]);
    }
    let text = "é".repeat(200);
    let body = json!({ "prompt": text, "truncate_prompt_tokens": -1, "max_tokens": 1 });
    assert_eq!(server.post(PLAIN, &body).await.status, 200);
    assert_eq!(server.scripted.seen.recv().await.unwrap().request.prompt.len(), 255);
    let mut salts = Vec::new();
    for salt in [Value::Null, json!("mine"), json!("mine"), json!("yours")] {
        server.post(PLAIN, &json!({ "prompt": "a", "cache_salt": salt })).await;
        salts.push(server.scripted.seen.recv().await.unwrap().request.cache_salt);
    }
    assert!(salts[1] == salts[2] && salts[0] != salts[1] && salts[1] != salts[3], "{salts:?}");
}

#[tokio::test]
async fn values_out_of_range_are_refused_by_the_fields_name() {
    let server = server(Vec::new());
    for (field, value, why) in [
        ("min_tokens", json!(17), "is 17, and the answer has 16 at most"),
        ("min_tokens", json!(-1), "from 0 to"),
        ("stop_token_ids", json!([264]), "not below the vocabulary of 264"),
        ("stop_token_ids", json!(vec![5; 257]), "256 elements at most"),
        ("stop_token_ids", json!(5), "an array"),
        ("stop_token_ids", json!([-1]), "from 0 to"),
        ("truncate_prompt_tokens", json!(0), "-1, for all that fit, or 1 or more"),
        ("truncate_prompt_tokens", json!(-2), "-1, for all that fit, or 1 or more"),
        ("truncate_prompt_tokens", json!(257), "from 1 to 256"),
        ("cache_salt", json!(""), "must not be empty"),
        ("cache_salt", json!("x".repeat(1025)), "at most 1024"),
        ("include_stop_str_in_output", json!(1), "a boolean"),
        ("skip_special_tokens", json!("no"), "a boolean"),
        ("add_special_tokens", json!("no"), "a boolean"),
        ("return_token_ids", json!("no"), "a boolean"),
    ] {
        let mut body = json!({ "prompt": "hello" });
        body[field] = value;
        let answer = server.post(PLAIN, &body).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status, &error["param"]), (400, &json!(field)), "{error}");
        assert!(error["message"].as_str().unwrap().contains(why), "{error}");
    }
}

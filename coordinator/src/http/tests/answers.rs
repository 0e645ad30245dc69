//! What a well-behaved client gets.

use super::client::{Answer, read_answer, read_until, send, server};
use crate::front::Readiness;
use crate::front::testing::{Act, say};
use crate::sched::Finish;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn two_words() -> Vec<Act> {
    vec![say("two \"words\"\n"), say("é"), Act::Finish(Finish::Length)]
}

#[tokio::test]
async fn a_whole_completion() {
    let mut server = server(vec![two_words()]);
    let body = json!({ "model": "tiny", "prompt": "hello", "seed": -2, "temperature": 0.5,
        "top_p": 0.5, "top_k": 3, "max_tokens": 9, "ignore_eos": true, "stop": "X",
        "user": "unknown fields are ignored" });
    let answer = server.post("/v1/completions", &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let json = answer.json();
    assert_eq!(json["choices"][0]["text"], "two \"words\"\né");
    assert_eq!(json["choices"][0]["finish_reason"], "length");
    assert_eq!(json["object"], "text_completion");
    assert_eq!(json["usage"]["prompt_tokens"], 1);
    assert_eq!(json["usage"]["completion_tokens"], 14);
    assert_eq!(json["usage"]["total_tokens"], 15);
    assert!(json["id"].as_str().unwrap().starts_with("cmpl-"));
    let seen = server.scripted.seen.recv().await.unwrap();
    let sampling = seen.request.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (0.5, 0.5, 3));
    assert_eq!((seen.request.seed, seen.request.max_tokens), (u64::MAX - 1, 9));
    assert_eq!((seen.request.ignore_eos, seen.text.stop), (true, vec!["X".to_owned()]));
}

#[tokio::test]
async fn defaults_are_those_of_openai() {
    let script = vec![Act::Finish(Finish::Stop)];
    let mut server = server(vec![script.clone(), script.clone(), script]);
    server.post("/v1/completions", &json!({ "prompt": [5, 6], "model": null })).await;
    server.post("/v1/completions", &json!({ "prompt": [[7]], "top_k": -1 })).await;
    let parts = json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]);
    let chat = json!({ "messages": [{ "role": "user", "content": parts }] });
    server.post("/v1/chat/completions", &chat).await;
    let first = server.scripted.seen.recv().await.unwrap().request;
    assert_eq!((first.prompt, first.max_tokens), (vec![5, 6], 16));
    assert_eq!((first.sampling.temperature, first.sampling.top_p), (1.0, 1.0));
    let second = server.scripted.seen.recv().await.unwrap().request;
    assert_eq!((second.prompt, second.sampling.top_k), (vec![7], 0));
    let chat = server.scripted.seen.recv().await.unwrap().request;
    assert_eq!(chat.max_tokens as usize, 256 - chat.prompt.len(), "the rest of the context");
}

#[tokio::test]
async fn a_streamed_completion() {
    let server = server(vec![two_words(), two_words()]);
    let mut body = json!({ "prompt": "hello", "stream": true });
    let answer = server.post("/v1/completions", &body).await;
    assert!(answer.head.contains("content-type: text/event-stream"), "{}", answer.head);
    assert_eq!(answer.events().last(), Some(&"[DONE]"));
    let chunks = answer.chunks();
    let texts = chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap());
    assert_eq!(texts.collect::<String>(), "two \"words\"\né");
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "length");
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));

    body["stream_options"] = json!({ "include_usage": true });
    let chunks = server.post("/v1/completions", &body).await.chunks();
    let (last, before) = chunks.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 14);
    assert!(before.iter().all(|chunk| chunk["usage"].is_null() && chunk["id"] == last["id"]));
}

#[tokio::test]
async fn chats_whole_and_streamed() {
    let server = server(vec![two_words(), two_words()]);
    let mut body = json!({ "messages": [{ "role": "user", "content": "hello" }] });
    let answer = server.post("/v1/chat/completions", &body).await.json();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["choices"][0]["message"]["content"], "two \"words\"\né");
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");

    body["stream"] = json!(true);
    let answer = server.post("/v1/chat/completions", &body).await;
    assert_eq!(answer.events().last(), Some(&"[DONE]"));
    let chunks = answer.chunks();
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk"));
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let texts = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
    assert_eq!(texts.collect::<String>(), "two \"words\"\né");
    let last = &chunks.last().unwrap()["choices"][0];
    assert_eq!((&last["delta"], &last["finish_reason"]), (&json!({}), &json!("length")));
}

#[tokio::test]
async fn logprobs_of_a_chat_have_text_and_bytes() {
    let script = vec![Act::Say(vec![b'a', 0xC3]), Act::Say(vec![0xA9]), Act::Finish(Finish::Stop)];
    let server = server(vec![script.clone(), script]);
    let mut body = json!({
        "messages": [{ "role": "user", "content": "hello" }], "logprobs": true, "top_logprobs": 2,
    });
    let token = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        json!({ "token": text, "bytes": bytes, "logprob": -0.5, "top_logprobs": [
            { "token": "<|im_end|>", "bytes": b"<|im_end|>", "logprob": -1.0 },
            { "token": "\0", "bytes": [0], "logprob": -2.0 },
        ]})
    };
    let wanted = json!([token(b"a"), token(&[0xC3]), token(&[0xA9])]);
    let whole = server.post("/v1/chat/completions", &body).await.json();
    assert_eq!(whole["choices"][0]["logprobs"], json!({ "content": wanted, "refusal": null }));

    body["stream"] = json!(true);
    let chunks = server.post("/v1/chat/completions", &body).await.chunks();
    let pieces = chunks.iter().map(|chunk| &chunk["choices"][0]);
    let found = pieces.filter_map(|piece| piece["logprobs"]["content"].as_array());
    assert_eq!(json!(found.flatten().collect::<Vec<_>>()), wanted);
    assert!(chunks.last().unwrap()["choices"][0]["logprobs"].is_null());
}

#[tokio::test]
async fn logprobs_of_a_completion_are_columns() {
    let script = vec![say("aé"), say("ND"), Act::Finish(Finish::Length)];
    let server = server(vec![script.clone(), script.clone(), script]);
    let mut body = json!({ "prompt": "a", "logprobs": 1, "stop": "é" });
    let whole = server.post("/v1/completions", &body).await.json();
    let likely = |text: &str| json!({ "<|im_end|>": -1.0, text: -0.5 });
    let wanted = json!({
        "tokens": ["a", "\u{FFFD}", "\u{FFFD}"], "token_logprobs": [-0.5, -0.5, -0.5],
        "top_logprobs": [likely("a"), likely("\u{FFFD}"), likely("\u{FFFD}")],
        "text_offset": [0, 1, 2],
    });
    assert_eq!(whole["choices"][0]["logprobs"], wanted);
    assert_eq!(whole["choices"][0]["text"], "a");

    body["logprobs"] = json!(0);
    let alone = server.post("/v1/completions", &body).await.json();
    assert_eq!(alone["choices"][0]["logprobs"]["top_logprobs"][0], json!({ "a": -0.5 }));

    (body["stream"], body["stop"]) = (json!(true), json!(null));
    let chunks = server.post("/v1/completions", &body).await.chunks();
    let offsets =
        chunks.iter().filter_map(|c| c["choices"][0]["logprobs"]["text_offset"].as_array());
    assert_eq!(json!(offsets.flatten().collect::<Vec<_>>()), json!([0, 1, 2, 3, 4]));
}

#[tokio::test]
async fn what_changes_the_draw_reaches_the_scheduler() {
    let mut server = server(vec![vec![Act::Finish(Finish::Stop)]]);
    let body = json!({
        "prompt": "a", "min_p": 0.25, "repetition_penalty": 1.5, "presence_penalty": -2,
        "frequency_penalty": 0.5, "logit_bias": { "30": -100, "4": 1.5 }, "logprobs": 5,
    });
    assert_eq!(server.post("/v1/completions", &body).await.status, 200);
    let request = server.scripted.seen.recv().await.unwrap().request;
    let sampling = request.sampling;
    assert_eq!((sampling.min_p, sampling.repetition_penalty), (0.25, 1.5));
    assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (-2.0, 0.5));
    let biases: Vec<_> = request.biases.iter().map(|bias| (bias.token, bias.value)).collect();
    assert_eq!((biases, request.logprobs), (vec![(4, 1.5), (30, -100.0)], 6));
}

#[tokio::test]
async fn a_character_split_over_tokens_arrives_whole() {
    let smile = "😀".as_bytes();
    let script = smile.iter().map(|byte| Act::Say(vec![*byte]));
    let script = script.chain([Act::Finish(Finish::Stop)]).collect();
    let server = server(vec![script]);
    let answer = server.post("/v1/completions", &json!({ "prompt": "a", "stream": true })).await;
    assert!(answer.body.contains("😀") && !answer.body.contains('\u{FFFD}'), "{}", answer.body);
}

#[tokio::test]
async fn a_stop_string_ends_the_answer_before_it() {
    let script = vec![say("one\nU"), say("ser"), say(": two"), Act::Hold];
    let server = server(vec![script.clone(), script]);
    for stream in [false, true] {
        let body = json!({ "prompt": "a", "stop": ["User:", "\n\n"], "stream": stream });
        let answer = server.post("/v1/completions", &body).await;
        let chunks = if stream { answer.chunks() } else { vec![answer.json()] };
        let texts = chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap());
        assert_eq!(texts.collect::<String>(), "one\n");
        assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
    }
}

#[tokio::test]
async fn models_and_health() {
    let server = server(Vec::new());
    let list = server.ask("GET", "/v1/models", "").await.json();
    assert_eq!(list["data"][0]["id"], "tiny");
    assert_eq!(server.ask("GET", "/v1/models/tiny", "").await.json(), list["data"][0]);
    let unknown = server.ask("GET", "/v1/models/org/other", "").await;
    assert_eq!(
        (unknown.status, &unknown.json()["error"]["code"]),
        (404, &json!("model_not_found"))
    );

    assert_eq!(server.ask("GET", "/health", "").await.status, 200);
    let lost = Readiness::Lost("rank 1 was killed".into());
    for (state, message) in [
        (Readiness::Starting("loading".into()), "the server is starting: loading"),
        (Readiness::Draining, "the server is shutting down"),
        (lost, "rank 1 was killed"),
    ] {
        server.scripted.readiness.send(state).unwrap();
        for (method, path) in [("GET", "/health"), ("POST", "/v1/completions")] {
            let answer = server.ask(method, path, "{\"prompt\": \"a\"}").await;
            assert_eq!(answer.status, 503);
            assert_eq!(answer.json()["error"]["message"], message);
            assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
        }
    }
}

#[tokio::test]
async fn a_connection_serves_several_requests_and_requests_run_side_by_side() {
    let quick = vec![say("quick"), Act::Finish(Finish::Stop)];
    let server = server(vec![vec![say("slow"), Act::Hold], quick.clone(), quick]);
    let mut waiting = server.connect().await;
    let body = json!({ "prompt": "a", "stream": true }).to_string();
    send(&mut waiting, "POST", "/v1/completions", &body).await;
    read_until(&mut waiting, "slow").await;
    let mut socket = server.connect().await;
    for _ in 0..2 {
        send(&mut socket, "POST", "/v1/completions", "{\"prompt\": \"a\"}").await;
        let answer = read_answer(&mut socket).await;
        assert_eq!(answer.json()["choices"][0]["text"], "quick");
    }
}

#[tokio::test]
async fn without_chunks_a_stream_ends_with_its_connection() {
    let server = server(vec![two_words()]);
    let mut socket = server.connect().await;
    let body = json!({ "prompt": "a", "stream": true }).to_string();
    let head = format!(
        "POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(!head.contains("transfer-encoding"), "{head}");
    let answer = Answer { status: 200, head: head.to_owned(), body: body.to_owned() };
    assert_eq!(answer.events().last(), Some(&"[DONE]"));
    let chunks = answer.chunks();
    let texts = chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap());
    assert_eq!(texts.collect::<String>(), "two \"words\"\né");
}

//! The HTTP API of a real server: OpenAI's own client, malformed requests, several at once, and
//! clients that leave.

use std::process::Command;
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{Permit, Server, goldens, repository};

/// The unchanged Python client, as `make test` installs it.
#[test]
fn openais_client_works_unchanged() {
    let client = repository("target/python");
    assert!(client.join("openai").is_dir(), "OpenAI's client is missing: run `make test` once");
    let golden = goldens().into_iter().find(|golden| golden.name == "chat-stop").unwrap();
    let server = Server::ready(Permit::one(), 2, &[]);
    let output = Command::new("python3")
        .arg(repository("tests/e2e/openai_client.py"))
        .arg(format!("http://{}/v1", server.client.address))
        .arg(&golden.generated)
        .env("PYTHONPATH", client)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let (out, err) = (&output.stdout, &output.stderr);
    let (out, err) = (String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    assert!(output.status.success(), "{out}\n{err}");
    assert_eq!(out.lines().last(), Some("all 16 checks passed"), "{out}\n{err}");
    server.stop();
}

#[test]
fn malformed_requests_get_a_400_that_names_the_field_and_harm_nobody() {
    let server = Server::ready(Permit::one(), 1, &["--max-model-len", "256"]);
    let client = server.client;
    let chat = |messages: Value| json!({ "messages": messages });
    let ask = |field: &str, value: Value| json!({ "prompt": "Once", field: value });
    let cases: Vec<(&str, Value, &str)> = vec![
        ("/v1/completions", json!({}), "prompt"),
        ("/v1/completions", json!({ "prompt": 5 }), "prompt"),
        ("/v1/completions", json!({ "prompt": [] }), "prompt"),
        ("/v1/completions", json!({ "prompt": "" }), "prompt"),
        ("/v1/completions", json!({ "prompt": [49152] }), "prompt"),
        ("/v1/completions", json!({ "prompt": [1.5] }), "prompt"),
        ("/v1/completions", json!({ "prompt": "word ".repeat(400) }), "prompt"),
        ("/v1/completions", ask("max_tokens", json!(0)), "max_tokens"),
        ("/v1/completions", ask("max_tokens", json!(-1)), "max_tokens"),
        ("/v1/completions", ask("max_tokens", json!(100_000)), "max_tokens"),
        ("/v1/completions", ask("max_tokens", json!(1e30)), "max_tokens"),
        ("/v1/completions", ask("temperature", json!(-0.5)), "temperature"),
        ("/v1/completions", ask("temperature", json!(1e300)), "temperature"),
        ("/v1/completions", ask("temperature", json!("hot")), "temperature"),
        ("/v1/completions", ask("top_p", json!(-0.5)), "top_p"),
        ("/v1/completions", ask("top_p", json!(1.5)), "top_p"),
        ("/v1/completions", ask("top_k", json!(-2)), "top_k"),
        ("/v1/completions", ask("stop", json!([""])), "stop"),
        ("/v1/completions", ask("stop", json!(5)), "stop"),
        ("/v1/completions", ask("stop", json!(vec!["x"; 17])), "stop"),
        ("/v1/completions", ask("seed", json!("lucky")), "seed"),
        ("/v1/completions", ask("stream", json!("yes")), "stream"),
        ("/v1/completions", ask("n", json!(0)), "n"),
        ("/v1/completions", ask("logprobs", json!(6)), "logprobs"),
        ("/v1/chat/completions", json!({}), "messages"),
        ("/v1/chat/completions", chat(json!([])), "messages"),
        ("/v1/chat/completions", chat(json!([{ "role": "user" }])), "messages[0].content"),
        (
            "/v1/chat/completions",
            chat(json!([{ "role": "king", "content": "x" }])),
            "messages[0].role",
        ),
    ];
    for (path, body, field) in &cases {
        let reply = client.post(path, body).unwrap();
        assert_eq!(reply.status, 400, "{body}: {reply:?}");
        let (message, param) = reply.error();
        assert_eq!(param.as_deref(), Some(*field), "{body}: {message}");
        assert!(message.contains(field), "{body}: {message}");
    }
    for body in ["", "{", "[1]", "{\"prompt\": \"\\ud800\"}", "\u{0}"] {
        let reply = client.post_bytes("/v1/completions", body.as_bytes()).unwrap();
        assert_eq!(reply.status, 400, "{body:?}: {reply:?}");
        assert!(reply.error().0.contains("body"), "{body:?}: {reply:?}");
    }
    let deep = format!("{{\"prompt\": {}{}}}", "[".repeat(5000), "]".repeat(5000));
    assert_eq!(client.post_bytes("/v1/completions", deep.as_bytes()).unwrap().status, 400);
    let reply =
        client.post("/v1/completions", &json!({ "prompt": "x", "model": "gpt-9" })).unwrap();
    assert_eq!((reply.status, reply.error().1.as_deref()), (404, Some("model")));
    assert_eq!(client.get("/v1/embeddings").unwrap().status, 404);
    assert_eq!(client.get("/v1/completions").unwrap().status, 405);
    let good = client.post("/v1/completions", &ask("max_tokens", json!(2))).unwrap();
    assert_eq!(good.status, 200, "{good:?}");
    server.stop();
}

#[test]
fn a_stop_string_ends_the_answer_and_is_not_part_of_it() {
    let golden = goldens().into_iter().find(|golden| golden.name == "once").unwrap();
    let server = Server::ready(Permit::one(), 1, &[]);
    let (path, mut body) = golden.ask();
    // Cut so that the stop string begins within one token and ends within another.
    let at = golden.whole.find("skyscrapers").unwrap();
    body["stop"] = json!(["never to be seen", "scrapers an"]);
    let expected = &golden.whole[..at + "sky".len()];
    let whole = server.client.post(path, &body).unwrap();
    assert_eq!(whole.text(), expected);
    assert_eq!(whole.json()["choices"][0]["finish_reason"], "stop");
    let streamed = server.client.streamed(path, &body).unwrap().unwrap();
    assert!(streamed.is_whole(), "{streamed:?}");
    assert_eq!((streamed.text.as_str(), streamed.finish.as_deref()), (expected, Some("stop")));
    server.stop();
}

/// Eight slots, 24 clients: some wait in the queue, and each gets its own answer.
#[test]
fn more_clients_than_slots_all_get_their_own_answers() {
    let goldens = goldens();
    let short: Vec<_> = goldens.iter().filter(|golden| golden.prompt_ids.len() < 50).collect();
    let args = ["--max-num-seqs", "8", "--max-num-batched-tokens", "64"];
    let server = Server::ready(Permit::one(), 2, &args);
    let client = server.client;
    thread::scope(|scope| {
        for number in 0..24 {
            let golden = short[number % short.len()];
            scope.spawn(move || {
                let (path, mut body) = golden.ask();
                let tokens = 5 + number;
                body["max_tokens"] = json!(tokens);
                let reply = client.post(path, &body).unwrap();
                assert_eq!(reply.status, 200, "{reply:?}");
                assert_eq!(reply.json()["usage"]["completion_tokens"], tokens);
                let text = reply.text();
                // The last character may still lack bytes that were to come.
                let known = text.trim_end_matches('\u{fffd}');
                assert!(golden.whole.starts_with(known), "{}: {text:?}", golden.name);
            });
        }
    });
    server.stop();
}

/// Six blocks for three answers of three blocks each: some lose theirs and are computed again, and
/// penalties must know what was drawn before.
#[test]
fn penalties_outlive_the_loss_of_blocks() {
    let args = ["--kv-cache-tokens", "384", "--max-model-len", "192"];
    let server = Server::ready(Permit::one(), 2, &args);
    let client = server.client;
    let ask = |prompt: &str| {
        let body = json!({
            "prompt": prompt, "max_tokens": 150, "ignore_eos": true, "temperature": 0.8, "seed": 3,
            "repetition_penalty": 1.1, "presence_penalty": 0.4, "frequency_penalty": 0.3,
            "logit_bias": { "28": -2.5 },
        });
        let reply = client.post("/v1/completions", &body).unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.text()
    };
    let prompts = ["Once upon a time", "The sky is", "Dogs and cats"];
    let alone = prompts.map(ask);
    thread::scope(|scope| {
        let together = prompts.map(|prompt| scope.spawn(move || ask(prompt)));
        for (alone, together) in alone.iter().zip(together) {
            assert_eq!(*alone, together.join().unwrap());
        }
    });
    server.stop();
}

/// One slot and eight blocks: what a client that left kept would be missed at once.
#[test]
fn a_client_that_leaves_frees_its_slot_and_its_blocks() {
    let long = goldens().into_iter().find(|golden| golden.name == "long").unwrap();
    let args = ["--max-num-seqs", "1", "--kv-cache-tokens", "512", "--max-model-len", "512"];
    let server = Server::ready(Permit::one(), 1, &args);
    let began = Instant::now();
    for round in 0..6 {
        // Three blocks each, and never a prefix that is cached.
        let prompt = &long.prompt_ids[round * 130..][..130];
        let body = json!({
            "prompt": prompt, "max_tokens": 380, "ignore_eos": true, "temperature": 0,
        });
        let mut events = server.client.stream("/v1/completions", &body).unwrap().unwrap();
        if round % 2 == 0 {
            assert_eq!(events.pieces(1).pieces, 1);
        }
        drop(events);
    }
    let body = json!({ "prompt": &long.prompt_ids[800..][..440], "max_tokens": 8 });
    let reply = server.client.post("/v1/completions", &body).unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    let took = began.elapsed();
    // Six answers of 380 tokens would have been 2,280 steps.
    let mut timed = json!({ "prompt": "Once", "max_tokens": 100, "ignore_eos": true });
    timed["temperature"] = json!(0);
    let began = Instant::now();
    assert_eq!(server.client.post("/v1/completions", &timed).unwrap().status, 200);
    let answers = began.elapsed() * 22;
    assert!(took < answers, "{took:?} is the time of answers that nobody reads: {answers:?}");
    server.stop();
}

//! Greedy text in f32 equals transformers', however the work is cut: over ranks, batches, chunks,
//! and across preemption.

use std::thread;

use crate::harness::{Client, Golden, Permit, Server, TOKENS, full, goldens};

/// Asks for a golden answer, streamed or whole, and checks text and counts.
fn check(client: Client, golden: &Golden, streamed: bool, tokens: bool) {
    let name = &golden.name;
    let (path, body) = if tokens { golden.ask_with_tokens() } else { golden.ask() };
    let (text, finish, usage) = if streamed {
        let mut body = body;
        body["stream_options"] = serde_json::json!({ "include_usage": true });
        let answer = client.streamed(path, &body).unwrap().unwrap();
        assert!(answer.is_whole(), "{name}: {answer:?}");
        (answer.text.clone(), answer.finish.unwrap(), answer.usage.unwrap())
    } else {
        let reply = client.post(path, &body).unwrap();
        assert_eq!(reply.status, 200, "{name}: {reply:?}");
        let json = reply.json();
        let finish = json["choices"][0]["finish_reason"].as_str().unwrap().to_owned();
        (reply.text(), finish, json["usage"].clone())
    };
    assert_eq!(text, golden.whole, "{name}");
    assert_eq!(finish, "length", "{name}");
    assert_eq!(usage["prompt_tokens"], golden.prompt_ids.len(), "{name}");
    assert_eq!(usage["completion_tokens"], TOKENS, "{name}");
}

/// All at once; half streamed, half as tokens.
fn check_together(client: Client, goldens: &[Golden]) {
    thread::scope(|scope| {
        for (index, golden) in goldens.iter().enumerate() {
            let (streamed, tokens) = (index % 2 == 0, index % 4 < 2);
            scope.spawn(move || check(client, golden, streamed, tokens));
        }
    });
}

/// One by one, then all at once (then the prompts that were alone hit the prefix cache). `args`
/// are the server's.
fn check_at(tp: usize, alone: &[&str], args: &[&str]) {
    let goldens = goldens();
    let server = Server::ready(Permit::one(), tp, args);
    for (index, golden) in goldens.iter().enumerate() {
        if full() || alone.contains(&golden.name.as_str()) {
            check(server.client, golden, index % 2 == 1, index % 3 == 0);
        }
    }
    check_together(server.client, &goldens);
    server.stop();
}

const ALL: [&str; 11] = [
    "once",
    "prose",
    "code",
    "json",
    "french",
    "chinese",
    "emoji",
    "long",
    "chat-system",
    "chat-stop",
    "chat-turns",
];

#[test]
fn text_equals_transformers_on_one_rank() {
    let names: Vec<String> = goldens().into_iter().map(|golden| golden.name).collect();
    assert_eq!(names, ALL);
    check_at(1, &ALL, &[]);
}

#[test]
fn text_equals_transformers_on_two_ranks() {
    check_at(2, &["once", "chat-system"], &[]);
}

#[test]
fn text_equals_transformers_on_three_ranks() {
    check_at(3, &["chinese"], &[]);
}

/// Four ranks, three KV heads: two ranks share one.
#[test]
fn text_equals_transformers_on_four_ranks() {
    check_at(4, &["emoji"], &[]);
}

/// Prompts are fed 17 tokens at a time, less where other rows decode.
#[test]
fn text_equals_transformers_when_prompts_are_split() {
    let args = ["--max-num-seqs", "16", "--max-num-batched-tokens", "17"];
    let goldens = goldens();
    let server = Server::ready(Permit::one(), 2, &args);
    let short = |golden: &&Golden| full() || golden.prompt_ids.len() < 1000;
    check_together(server.client, &goldens.iter().filter(short).cloned().collect::<Vec<_>>());
    server.stop();
}

/// Three answers of 200 tokens in a pool that has room for two and a quarter.
#[test]
fn text_equals_transformers_across_preemption() {
    const LONG: usize = 200;
    const BLOCK: usize = 64;
    let goldens = goldens();
    let named = |name: &str| goldens.iter().find(|golden| golden.name == name).unwrap();
    let three = ["once", "prose", "code"].map(named);
    let blocks = |golden: &Golden| (golden.prompt_ids.len() + LONG).div_ceil(BLOCK);
    let needed: usize = three.iter().map(|golden| blocks(golden)).sum();
    let pool = (9 * BLOCK).to_string();
    assert!(needed >= 9 + 3, "nine blocks nearly do for {needed}");
    let texts = |server: &Server| {
        let client = server.client;
        let ask = move |golden: &Golden| {
            let (path, mut body) = golden.ask();
            body["max_tokens"] = LONG.into();
            client.post(path, &body).unwrap().text()
        };
        thread::scope(|scope| {
            three.map(|golden| scope.spawn(move || ask(golden))).map(|text| text.join().unwrap())
        })
    };
    for tp in if full() { vec![1, 2, 3, 4] } else { vec![2] } {
        let roomy = Server::ready(Permit::one(), tp, &[]);
        let undisturbed = texts(&roomy);
        roomy.stop();
        let args = ["--kv-cache-tokens", &pool, "--max-model-len", "512", "-v"];
        let server = Server::ready(Permit::one(), tp, &args);
        let preempted = texts(&server);
        let log = server.stop();
        for (golden, text) in three.iter().zip(&undisturbed) {
            assert!(text.starts_with(&golden.whole), "{}: {text}", golden.name);
        }
        assert_eq!(preempted, undisturbed);
        let count = log.split("preemptions ").nth(1).and_then(|rest| rest.split(',').next());
        let count: usize = count.unwrap_or_else(|| panic!("{log}")).parse().unwrap();
        assert!(count > 0, "nobody was preempted: {log}");
    }
}

/// Without `ignore_eos` the text ends before the first end token, and the reason is `stop`.
#[test]
fn an_end_token_ends_the_answer() {
    let server = Server::ready(Permit::one(), 1, &[]);
    let golden = goldens().into_iter().find(|golden| golden.text_tokens < TOKENS).unwrap();
    let (path, mut body) = golden.ask();
    body["ignore_eos"] = false.into();
    let answer = server.client.streamed(path, &body).unwrap().unwrap();
    assert!(answer.is_whole(), "{answer:?}");
    assert_eq!((answer.text, answer.finish), (golden.generated, Some("stop".to_owned())));
    server.stop();
}

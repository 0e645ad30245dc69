//! The prefix cache of a real server: bits after a hit equal those without, and answers say what
//! was cached and why not more.

use serde_json::{Value, json};

use crate::harness::{Client, Permit, Server, repository};

/// Positions of a block on the CPU.
const BLOCK: usize = 64;

fn prompt(tokens: u32) -> Vec<u32> {
    (0..tokens).map(|token| 10 + token * 7 % 300).collect()
}

/// Text and logprobs of an answer, and what it says of the cache.
fn ask(client: Client, prompt: &[u32]) -> (Value, Value) {
    let body = json!({
        "prompt": prompt, "max_tokens": 12, "temperature": 0.8, "seed": 5, "logprobs": 5,
        "ignore_eos": true,
    });
    let reply = client.post("/v1/completions", &body).unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    let json = reply.json();
    (json["choices"][0].clone(), json["usage"]["prompt_tokens_details"].clone())
}

#[test]
fn bits_after_a_hit_equal_those_without_and_answers_say_what_was_cached() {
    let model = repository("tests/fixtures/tiny/qwen3");
    let model = model.to_str().unwrap();
    let permit = Permit::one();
    let cached =
        |tokens: usize, miss: Value| json!({ "cached_tokens": tokens, "cache_miss": miss });
    let whole = prompt(150);
    let mut changed = whole.clone();
    changed[100] += 1;
    let mut head = whole.clone();
    head[3] += 1;

    let mut server = Server::of(model, permit, 2, &[]);
    server.wait_until_ready();
    let different = |token: usize| json!({ "reason": "different", "token": token });
    let too_short = json!({ "reason": "too_short" });
    let (cold, said) = ask(server.client, &whole);
    assert_eq!(said, cached(0, different(0)));
    let (warm, said) = ask(server.client, &whole);
    assert_eq!(said, cached(2 * BLOCK, too_short.clone()));
    assert_eq!(warm, cold);
    let (warm_changed, said) = ask(server.client, &changed);
    assert_eq!(said, cached(BLOCK, different(100)), "its second block has another token");
    let (_, said) = ask(server.client, &head);
    assert_eq!(said, cached(0, different(3)), "as agents do that change their prompt's head");
    let (_, said) = ask(server.client, &whole[..20]);
    assert_eq!(said, cached(0, too_short));
    server.stop();

    let mut server = Server::of(model, Permit::one(), 2, &["--no-enable-prefix-caching"]);
    server.wait_until_ready();
    for _ in 0..2 {
        let (answer, said) = ask(server.client, &whole);
        assert_eq!(said, cached(0, json!({ "reason": "disabled" })));
        assert_eq!(answer, cold);
    }
    assert_eq!(ask(server.client, &changed).0, warm_changed);
    server.stop();
}

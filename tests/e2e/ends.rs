//! Least lengths on real workers: no end token is sampled before one, on any number of ranks.

use serde_json::{Value, json};

use crate::harness::{Permit, Server, goldens};

#[test]
fn no_answer_ends_before_its_least_length() {
    let golden = goldens().into_iter().find(|golden| golden.name == "chat-stop").unwrap();
    let (path, mut body) = golden.ask();
    body["max_tokens"] = json!(golden.text_tokens + 12);
    body["return_token_ids"] = json!(true);
    body["ignore_eos"] = json!(false);
    let ends = Value::from(vec![0, 2]);
    let mut answers = Vec::new();
    for ranks in [1, 2] {
        let server = Server::ready(Permit::one(), ranks, &[]);
        let mut ask = |least: usize| {
            body["min_tokens"] = json!(least);
            let reply = server.client.post(path, &body).unwrap();
            assert_eq!(reply.status, 200, "{reply:?}");
            reply.json()["choices"][0]["token_ids"].as_array().unwrap().clone()
        };
        // As many tokens as the answer has anyway change nothing, its end token included.
        let free = ask(0);
        assert_eq!(free.len(), golden.text_tokens + 1);
        assert_eq!(ask(golden.text_tokens), free);
        let longer = ask(golden.text_tokens + 8);
        assert!(longer.len() > golden.text_tokens + 8, "{longer:?}");
        assert_eq!(longer[..golden.text_tokens], free[..golden.text_tokens]);
        let early = &longer[..golden.text_tokens + 8];
        assert!(early.iter().all(|id| !ends.as_array().unwrap().contains(id)), "{longer:?}");
        answers.push(longer);
        server.stop();
    }
    assert_eq!(answers[0], answers[1], "ranks agree");
}

//! Numbers at the edges of what a float is, in every field that takes one.
//!
//! Zeros with a sign and numbers that are hardly any: not every way of writing a float down tells
//! them apart, and a plan that is not the same on both ends of the wire is the end of a cluster.

use std::fs;

use serde_json::json;

use crate::harness::{Permit, Run, Scratch, Server, repository};

const EDGES: [&str; 7] = ["-0.0", "-0", "0", "-1e-60", "1e-45", "-1e-45", "1e-310"];
const FIELDS: [&str; 6] = [
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
];

/// A model whose generation_config.json has a zero with a sign wherever one may stand.
fn folder(scratch: &Scratch) -> String {
    for entry in fs::read_dir(repository("tests/fixtures/tiny/qwen3")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, scratch.file(path.file_name().unwrap().to_str().unwrap())).unwrap();
    }
    let settings = r#"{ "eos_token_id": 0, "temperature": -0.0, "min_p": -1e-45, "top_p": 1.0 }"#;
    fs::write(scratch.file("generation_config.json"), settings).unwrap();
    scratch.path().to_str().unwrap().to_owned()
}

#[test]
fn edges_of_floats_are_answered_or_refused_and_end_nobody() {
    let scratch = Scratch::new("floats");
    let model = folder(&scratch);
    let mut server = Server::of(&model, Permit::one(), 2, &[]);
    server.wait_until_ready();
    let client = server.client;
    let ask = |fields: &str| {
        // Numbers as clients write them, which is not how they are printed again.
        let body = format!(r#"{{ "prompt": [1, 2, 3], "max_tokens": 2, {fields} }}"#);
        let reply = client.post_bytes("/v1/completions", body.as_bytes()).unwrap();
        assert!([200, 400].contains(&reply.status), "{fields}: {reply:?}");
        reply
    };
    for edge in EDGES {
        for field in FIELDS {
            let reply = ask(&format!(r#""{field}": {edge}"#));
            // It has to be above 0, and nothing that is next to it is taken. (A top_p of 0 is
            // greedy.)
            let taken = field != "repetition_penalty";
            assert_eq!(reply.status == 200, taken, "{field} {edge}: {reply:?}");
            if !taken {
                assert_eq!(reply.error().1.as_deref(), Some(field), "{reply:?}");
            }
        }
        let all = format!(
            r#""temperature": {edge}, "min_p": {edge}, "presence_penalty": {edge},
               "frequency_penalty": {edge}, "logit_bias": {{ "5": {edge}, "6": -0.0 }}"#
        );
        assert_eq!(ask(&all).status, 200, "{all}");
    }
    for beyond in ["1e39", "-1e39"] {
        assert_eq!(ask(&format!(r#""temperature": {beyond}"#)).status, 400);
        assert_eq!(ask(&format!(r#""logit_bias": {{ "5": {beyond} }}"#)).status, 400);
    }
    let twice = ask(r#""logit_bias": { "5": 1, "05": 2 }"#);
    assert_eq!(twice.error().0, "logit_bias has token 5 twice");
    // What the file says, and a request like any other.
    let plain = client.post("/v1/completions", &json!({ "prompt": [1, 2, 3] })).unwrap();
    assert_eq!(plain.status, 200, "{plain:?}");
    server.stop();
    let flags = ["--temperature", "-0.0", "--presence-penalty", "-0.0", "--max-tokens", "2"];
    Run::good(&[&["run", &model, "x", "--tp", "2"], &flags[..]].concat());
}

//! `binfer serve FOLDER`: a Hugging Face folder's chat, and its sampling defaults.

use serde_json::{Value, json};

use crate::harness::{Permit, Server, repository};

#[test]
fn a_folder_answers_as_its_golden_and_draws_as_it_says() {
    let folder = repository("tests/fixtures/tiny/qwen3");
    let golden = std::fs::read_to_string(folder.join("golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let chat = &golden["chat"];
    let mut server = Server::of(folder.to_str().unwrap(), Permit::one(), 2, &[]);
    server.wait_until_ready();
    let ask = |settings: Value| {
        let mut body = json!({ "model": "qwen3", "messages": chat["messages"], "max_tokens": 24 });
        body.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let reply = server.client.post("/v1/chat/completions", &body).unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        (reply.text(), reply.json()["usage"]["prompt_tokens"].clone())
    };
    let (text, prompt_tokens) = ask(json!({ "temperature": 0 }));
    assert_eq!(text, chat["generated"].as_str().unwrap());
    assert_eq!(prompt_tokens, chat["prompt_ids"].as_array().unwrap().len());
    // generation_config.json holds where the request is silent.
    let silent = ask(json!({ "seed": 5 }));
    let same = json!({ "seed": 5, "temperature": 0.6, "top_k": 20, "top_p": 0.95 });
    assert_eq!(silent, ask(same));
    assert_ne!(silent, ask(json!({ "seed": 5, "temperature": 1.0, "top_k": 0, "top_p": 1.0 })));
    server.stop();
}

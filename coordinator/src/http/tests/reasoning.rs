//! Answers of models that think first, and conversations with their thoughts.

use super::client::{Server, server_of};
use crate::front::testing::Act;
use crate::sched::Finish;
use crate::text::TextModel;
use crate::text::testing::{harmony, thinking, tokens};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const ANSWER: &str = "<|channel|>analysis<|message|>They \"greet\".<|end|><|start|>assistant\
                      <|channel|>final<|message|>Hello!";

/// Says `answer`, one token after the other.
fn says(model: &TextModel, answer: &str, finish: Finish) -> Vec<Act> {
    let tokens = tokens(model, answer).into_iter().map(|token| Act::Sample(vec![token]));
    tokens.chain([Act::Finish(finish)]).collect()
}

fn server(answers: &[&str]) -> Server {
    let scripts = answers.iter().map(|answer| says(&harmony(), answer, Finish::Stop));
    server_of(harmony(), scripts.collect())
}

fn hello() -> Value {
    json!({ "messages": [{ "role": "user", "content": "hello" }] })
}

/// What a field of the deltas says altogether.
fn said(chunks: &[Value], field: &str) -> String {
    let deltas = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"][field]);
    deltas.filter_map(Value::as_str).collect()
}

#[tokio::test]
async fn a_whole_chat_has_its_reasoning_beside_its_content() {
    let answer = server(&[ANSWER]).post(CHAT, &hello()).await.json();
    let message = &answer["choices"][0]["message"];
    let wanted = json!({
        "role": "assistant", "content": "Hello!", "refusal": null,
        "reasoning_content": "They \"greet\".", "reasoning": "They \"greet\".",
    });
    assert_eq!(*message, wanted);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let details = &answer["usage"]["completion_tokens_details"];
    assert_eq!(*details, json!({ "reasoning_tokens": 12 }));
}

#[tokio::test]
async fn a_streamed_chat_has_deltas_of_both_kinds_in_their_order() {
    let server = server(&[ANSWER, ANSWER]);
    for logprobs in [false, true] {
        let mut body = hello();
        body["stream"] = json!(true);
        body["logprobs"] = json!(logprobs);
        body["stream_options"] = json!({ "include_usage": true });
        let answer = server.post(CHAT, &body).await;
        let chunks = answer.chunks();
        assert_eq!(said(&chunks, "reasoning_content"), "They \"greet\".");
        assert_eq!(said(&chunks, "reasoning"), "They \"greet\".");
        assert_eq!(said(&chunks, "content"), "Hello!");
        let first = |field: &str| {
            let is_said = |chunk: &Value| {
                chunk["choices"][0]["delta"][field].as_str().is_some_and(|text| !text.is_empty())
            };
            chunks.iter().position(is_said).unwrap()
        };
        assert!(first("reasoning_content") < first("content"), "{}", answer.body);
        assert!(!answer.body.contains("analysis"), "{}", answer.body);
        let usage = &chunks.last().unwrap()["usage"];
        assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 12);
    }
}

#[tokio::test]
async fn an_answer_that_ends_while_the_model_thinks_has_no_content() {
    let cut = says(&harmony(), "<|channel|>analysis<|message|>Let me", Finish::Length);
    let nothing = says(&harmony(), "<|channel|>final<|message|>", Finish::Length);
    let server = server_of(harmony(), vec![cut, nothing]);
    let answer = server.post(CHAT, &hello()).await.json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["reasoning_content"], "Let me");
    assert_eq!(
        (&choice["message"]["content"], &choice["finish_reason"]),
        (&Value::Null, &json!("length"))
    );
    let answer = server.post(CHAT, &hello()).await.json();
    let wanted = json!({ "role": "assistant", "content": "", "refusal": null });
    assert_eq!(answer["choices"][0]["message"], wanted);
}

#[tokio::test]
async fn completions_are_not_parsed() {
    let server = server(&[ANSWER, ANSWER]);
    for stream in [false, true] {
        let answer =
            server.post("/v1/completions", &json!({ "prompt": "a", "stream": stream })).await;
        let chunks = if stream { answer.chunks() } else { vec![answer.json()] };
        let texts = chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap());
        assert_eq!(texts.collect::<String>(), "analysisThey \"greet\".assistantfinalHello!");
        assert!(!answer.body.contains("reasoning"), "{}", answer.body);
    }
}

#[tokio::test]
async fn thoughts_of_earlier_turns_reach_the_template() {
    let mut server = server(&["", "", ""]);
    let mut prompts = Vec::new();
    for name in ["reasoning_content", "reasoning", "content"] {
        let mut history = json!([
            { "role": "user", "content": "hello" },
            { "role": "assistant", "content": "Hello!", "reasoning": null },
            { "role": "user", "content": "well", "reasoning_content": "" },
        ]);
        history[1][name] = json!("Hello!");
        assert_eq!(server.post(CHAT, &json!({ "messages": history })).await.status, 200);
        prompts.push(server.scripted.seen.recv().await.unwrap().request.prompt);
    }
    assert_eq!(prompts[0], prompts[1]);
    assert_eq!(prompts[0].len(), prompts[2].len() + tokens(&harmony(), " (Hello!)").len());
    let wrong =
        json!({ "messages": [{ "role": "user", "content": "a", "reasoning_content": "b" }] });
    let answer = server.post(CHAT, &wrong).await;
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &error["param"]), (400, &json!("messages[0].reasoning_content")));
}

#[tokio::test]
async fn tags_of_thinking_models_are_parsed_too() {
    let model = || thinking(&["<think>", "</think>"]);
    let answer = "<think>\nHm.\n</think>\n\nYes.";
    let server = server_of(model(), vec![says(&model(), answer, Finish::Stop)]);
    let answer = server.post(CHAT, &hello()).await.json();
    let message = &answer["choices"][0]["message"];
    assert_eq!(
        (&message["reasoning_content"], &message["content"]),
        (&json!("Hm."), &json!("Yes."))
    );
}

#[tokio::test]
async fn markup_among_stop_strings_does_not_end_a_chat_before_its_answer() {
    let mut server = server(&[ANSWER, ANSWER]);
    let end = tokens(&harmony(), "<|end|>")[0];
    let mut body = hello();
    body["stop"] = json!(["<|end|>"]);
    assert_eq!(server.post(CHAT, &body).await.status, 200);
    assert!(!server.scripted.seen.recv().await.unwrap().request.end_ids.contains(&end));
    body = json!({ "prompt": "hello", "stop": ["<|end|>"] });
    assert_eq!(server.post("/v1/completions", &body).await.status, 200);
    assert!(server.scripted.seen.recv().await.unwrap().request.end_ids.contains(&end));
}

//! Reasoning told from content by the real program: what a model without sense says in harmony, and
//! what OpenAI's client makes of it.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Client, Permit, Run, Scratch, Server, goldens, repository};

const CHAT: &str = "/v1/chat/completions";
const MARKS: [&str; 7] = [
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|constrain|>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
];
const TEMPLATE: &str = "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}\
                        <|end|>{% endfor %}<|start|>assistant";

/// The tiny Qwen 3 with the markup of harmony in place of the last tokens of its vocabulary, and
/// the first of these tokens.
fn harmony_folder(scratch: &Scratch) -> (PathBuf, u64) {
    let fixture = repository("tests/fixtures/tiny/qwen3");
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(fixture.join(name)).unwrap()).unwrap()
    };
    let mut tokenizer = read("tokenizer.json");
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    let first = added[0]["id"].as_u64().unwrap() - MARKS.len() as u64;
    let mark = |(id, name): (u64, &&str)| {
        json!({ "id": id, "content": name, "special": true,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false })
    };
    let marks: Vec<Value> = (first..).zip(&MARKS).map(mark).collect();
    added.splice(0..0, marks.clone());
    let model = tokenizer["model"].as_object_mut().unwrap();
    let merges = model["merges"].as_array_mut().unwrap();
    merges.truncate(merges.len() - MARKS.len());
    model["vocab"].as_object_mut().unwrap().retain(|_, id| id.as_u64().unwrap() < first);
    let mut config = read("tokenizer_config.json");
    config["chat_template"] = TEMPLATE.into();
    for mark in marks {
        let id = mark["id"].to_string();
        config["added_tokens_decoder"][id] = mark;
    }
    for name in ["config.json", "generation_config.json", "model.safetensors"] {
        std::fs::copy(fixture.join(name), scratch.file(name)).unwrap();
    }
    std::fs::write(scratch.file("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(scratch.file("tokenizer_config.json"), config.to_string()).unwrap();
    (scratch.path().to_owned(), first)
}

/// The JSON of each event of a stream.
fn events(client: Client, body: &Value) -> Vec<Value> {
    let mut stream = client.stream(CHAT, body).unwrap().unwrap();
    let mut events = Vec::new();
    while let Some(data) = stream.next().unwrap() {
        if data != "[DONE]" {
            events.push(serde_json::from_str(&data).unwrap());
        }
    }
    events
}

fn said(events: &[Value], field: &str) -> String {
    let deltas = events.iter().map(|event| &event["choices"][0]["delta"][field]);
    deltas.filter_map(Value::as_str).collect()
}

/// Random weights under a bias for markup say it in any order.
#[test]
fn whatever_a_model_says_in_harmony_is_an_answer_without_markup() {
    let scratch = Scratch::new("harmony");
    let (folder, first) = harmony_folder(&scratch);
    let mut server = Server::of(folder.to_str().unwrap(), Permit::one(), 1, &[]);
    server.wait_until_ready();
    assert!(server.log.text().contains("parsed as harmony"), "{}", server.log.text());
    let biases: Value = (first..first + 7)
        .map(|id| (id.to_string(), json!(3)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let (mut reasoned, mut answered) = (0, 0);
    for seed in 0..12 {
        let body = json!({
            "messages": [{ "role": "user", "content": "Hi" }], "max_tokens": 60, "seed": seed,
            "temperature": 1.0, "top_k": 0, "top_p": 1.0, "ignore_eos": true, "logit_bias": biases,
        });
        let whole = server.client.post(CHAT, &body).unwrap();
        assert_eq!(whole.status, 200, "{whole:?}");
        let streamed = events(server.client, &body);
        let text = format!("{}{streamed:?}", whole.body);
        assert!(MARKS.iter().all(|mark| !text.contains(mark)), "{text}");
        let message = &whole.json()["choices"][0]["message"];
        for field in ["content", "reasoning_content"] {
            assert_eq!(said(&streamed, field), message[field].as_str().unwrap_or(""), "{body}");
        }
        let details = whole.json()["usage"]["completion_tokens_details"].clone();
        reasoned += details["reasoning_tokens"].as_u64().unwrap();
        answered += message["content"].as_str().map_or(0, str::len);
    }
    assert!(reasoned > 20 && answered > 20, "{reasoned} {answered}");
    server.stop();
}

/// DeepSeek's answers begin with reasoning, so all that another model says is taken for it.
#[test]
fn openais_client_gets_reasoning_beside_content() {
    let client = repository("target/python");
    assert!(client.join("openai").is_dir(), "OpenAI's client is missing: run `make test` once");
    let golden = goldens().into_iter().find(|golden| golden.name == "chat-stop").unwrap();
    let server = Server::ready(Permit::one(), 1, &["--reasoning-parser", "deepseek_r1"]);
    let output = Command::new("python3")
        .arg(repository("tests/e2e/openai_reasoning.py"))
        .arg(format!("http://{}/v1", server.client.address))
        .arg(&golden.generated)
        .env("PYTHONPATH", client)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let (out, err) = (&output.stdout, &output.stderr);
    let (out, err) = (String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    assert!(output.status.success(), "{out}\n{err}");
    server.stop();
}

#[test]
fn run_writes_the_answer_to_stdout_and_reasoning_to_stderr() {
    let _permit = Permit::one();
    let golden = goldens().into_iter().find(|golden| golden.name == "chat-stop").unwrap();
    let question = golden.chat()[0].content.clone();
    let args = ["run", "demo", &question, "--use-template", "--dtype", "f32"];
    let run = Run::good(&args);
    assert_eq!(run.stdout, golden.generated);
    let run = Run::good(&[&args[..], &["--reasoning-parser", "deepseek_r1"]].concat());
    assert_eq!(run.stdout, "");
    assert!(run.stderr.contains(&golden.generated), "{run:?}");
    let run = Run::good(&[&args[..], &["--reasoning-parser", "qwen3", "-q"]].concat());
    assert_eq!((run.stdout, run.stderr), (golden.generated, String::new()));
}

#[test]
fn a_parser_that_the_vocabulary_does_not_fit_is_refused() {
    let run = Run::with_stdin(&["run", "demo", "-", "--reasoning-parser", "openai_gptoss"], "Hi");
    assert_eq!(run.status.code(), Some(78), "{run:?}");
    assert!(run.stderr.contains("the model's vocabulary lacks <|start|>"), "{run:?}");
}

//! Fields of requests: ours, those of other servers, misspelled and unknown ones, and their values.

use super::super::endpoint::Endpoint;
use super::super::field_names;
use super::super::request_objects::RequestObject;
use super::client::{Answer, server};
use crate::front::testing::{Act, say};
use crate::sched::Finish;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const PLAIN: &str = "/v1/completions";
const OBJECTS: [RequestObject; 5] = [
    RequestObject::Body(Endpoint::Completion),
    RequestObject::Body(Endpoint::Chat),
    RequestObject::StreamOptions,
    RequestObject::Message,
    RequestObject::ContentPart,
];

/// Checks a request with this field in this object. An error must be about that place.
fn check_in(object: RequestObject, name: &str, value: &Value) -> Result<Vec<String>, String> {
    let chat = |message: Value| json!({ "messages": [{}, message] });
    let (endpoint, body, place) = match object {
        RequestObject::Body(endpoint) => (endpoint, json!({ name: value }), ""),
        RequestObject::StreamOptions => {
            (Endpoint::Completion, json!({ "stream_options": { name: value } }), "stream_options.")
        }
        RequestObject::Message => (Endpoint::Chat, chat(json!({ name: value })), "messages[1]."),
        RequestObject::ContentPart => {
            let content = json!({ "content": [{}, {}, { name: value }] });
            (Endpoint::Chat, chat(content), "messages[1].content[2].")
        }
    };
    field_names::check(body.to_string().as_bytes(), endpoint).map_err(|error| {
        let place = format!("{place}{name}");
        assert!(error.message.starts_with(&place), "{error}");
        assert_eq!(error.param, Some(place), "{error}");
        error.message
    })
}

fn check(endpoint: Endpoint, name: &str, value: &Value) -> Result<Vec<String>, String> {
    check_in(RequestObject::Body(endpoint), name, value)
}

fn message(answer: &Answer) -> String {
    answer.json()["error"]["message"].as_str().unwrap().to_owned()
}

#[test]
fn every_field_of_other_servers_is_refused_unless_it_asks_for_nothing() {
    for object in OBJECTS {
        for field in object.refused() {
            for value in [json!({ "a": 1, "b": [] }), json!("value"), json!([[1], 2]), json!(0.25)]
            {
                check_in(object, field.name, &value).unwrap_err();
            }
            let neutral: Vec<Value> = serde_json::from_str(field.neutral).unwrap();
            for value in neutral.iter().chain(&[Value::Null]) {
                assert_eq!(check_in(object, field.name, value), Ok(Vec::new()), "{}", field.name);
            }
            assert!(object.known().all(|ours| ours != field.name), "{}", field.name);
        }
    }
}

#[test]
fn fields_inside_messages_and_options_are_checked_like_those_of_the_request() {
    let (message, part) = (RequestObject::Message, RequestObject::ContentPart);
    for (object, name, value, why) in [
        (message, "tool_calls", json!([{}]), "does not support tools"),
        (message, "prefix", json!(true), "continuing a message"),
        (message, "thinking", json!("hm"), "use reasoning_content"),
        (message, "parts", json!([{ "text": "a" }]), "use content"),
        (message, "Name", json!("me"), "did you mean name?"),
        (part, "Text", json!("a"), "did you mean text?"),
        (RequestObject::StreamOptions, "include_usages", json!(true), "mean include_usage?"),
    ] {
        let error = check_in(object, name, &value).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    for (object, name) in [(message, "cache_control"), (part, "cache_control")] {
        assert_eq!(check_in(object, name, &json!({ "type": "ephemeral" })), Ok(Vec::new()));
    }
    let moody = json!({ "mood": 1, "content": [{ "lang": "en" }, { "lang": "de" }] });
    let body = json!({ "messages": [moody, moody], "stream_options": { "pace": 1 } }).to_string();
    let unknown = field_names::check(body.as_bytes(), Endpoint::Chat).unwrap();
    let told = ["messages[].content[].lang", "messages[].mood", "stream_options.pace"];
    assert_eq!(unknown.len(), told.len(), "each is told once: {unknown:?}");
    assert!(told.iter().all(|name| unknown.iter().any(|told| told == name)), "{unknown:?}");
}

#[test]
fn a_refusal_names_the_field_to_use() {
    for (endpoint, name, value, ours) in [
        (Endpoint::Completion, "n_predict", json!(5), "use max_tokens"),
        (Endpoint::Chat, "repeat_penalty", json!(1.1), "use repetition_penalty"),
        (Endpoint::Chat, "stop_sequences", json!(["a"]), "use stop"),
        (Endpoint::Completion, "inputs", json!("a"), "use prompt"),
        (Endpoint::Completion, "messages", json!([]), "/v1/chat/completions"),
        (Endpoint::Chat, "prompt", json!("a"), "/v1/completions"),
        (Endpoint::Chat, "options", json!({ "num_predict": 5 }), "at the top level"),
        (Endpoint::Chat, "tools", json!([{}]), "this version of binfer does not support tools"),
        (Endpoint::Chat, "format", json!("json"), "does not support structured output"),
        (Endpoint::Chat, "num_ctx", json!(2048), "--max-model-len"),
    ] {
        let why = check(endpoint, name, &value).unwrap_err();
        assert!(why.contains(ours), "{why}");
    }
}

#[test]
fn misspelled_fields_are_refused_and_unknown_ones_are_not() {
    for (written, meant) in [
        ("max_token", "max_tokens"),
        ("maxTokens", "max_tokens"),
        ("max-tokens", "max_tokens"),
        ("Temperature", "temperature"),
        ("temprature", "temperature"),
        ("tempurature", "temperature"),
        ("topP", "top_p"),
        ("steam", "stream"),
        ("presence_penality", "presence_penalty"),
        ("logitBias", "logit_bias"),
        ("stops", "stop"),
        ("top_q", "top_k"),
    ] {
        let why = check(Endpoint::Chat, written, &json!(1)).unwrap_err();
        assert!(why.contains(&format!("did you mean {meant}?")), "{why}");
    }
    for unknown in ["provider", "transforms", "mode", "ttl", "seal", "", "é", "a\nb"] {
        let found = check(Endpoint::Chat, unknown, &json!([[[1]]])).unwrap();
        assert!(found.is_empty() || found == [unknown], "{unknown}");
    }
    let long = "x".repeat(100_000);
    assert_eq!(check(Endpoint::Chat, &long, &json!(1)).unwrap()[0].len(), 64);
    let many: serde_json::Map<_, _> = (0..999).map(|n| (format!("field-{n}"), json!(n))).collect();
    let found =
        field_names::check(Value::Object(many).to_string().as_bytes(), Endpoint::Chat).unwrap();
    assert!(found.len() < 10);
}

#[tokio::test]
async fn numbers_are_taken_as_clients_write_them() {
    let script = || vec![Act::Finish(Finish::Stop)];
    let mut server = server((0..6).map(|_| script()).collect());
    let body = json!({ "prompt": [5.0, 6], "max_tokens": 5.0, "seed": 3.0, "top_k": 2.0,
        "temperature": 1, "user": null, "logprobs": 1.0 });
    assert_eq!(server.post(PLAIN, &body).await.status, 200);
    let request = server.scripted.seen.recv().await.unwrap().request;
    assert_eq!((request.prompt, request.max_tokens, request.seed), (vec![5, 6], 5, 3));
    assert_eq!((request.sampling.top_k, request.logprobs), (2, 2));

    let mut seeds = Vec::new();
    for seed in [json!(-1), json!(-1), json!(-2), json!(u64::MAX)] {
        let answer = server.post(PLAIN, &json!({ "prompt": "a", "seed": seed })).await;
        assert_eq!(answer.status, 200);
        seeds.push(server.scripted.seen.recv().await.unwrap().request.seed);
    }
    assert_ne!(seeds[0], seeds[1], "-1 is a random one");
    assert_eq!(seeds[2..], [u64::MAX - 1, u64::MAX]);

    let body = json!({ "prompt": "a", "top_p": 0, "temperature": 1.5 });
    assert_eq!(server.post(PLAIN, &body).await.status, 200);
    let sampling = server.scripted.seen.recv().await.unwrap().request.sampling;
    assert_eq!((sampling.temperature, sampling.top_p), (0.0, 1.0), "greedy");
}

#[tokio::test]
async fn an_error_names_the_place_and_what_was_expected_and_repeats_no_value() {
    let server = server(Vec::new());
    let secret = "SECRET, expected a secret";
    let chat = |message: Value| json!({ "messages": [message] });
    for (path, body, place, expected) in [
        (
            PLAIN,
            json!({ "prompt": { "a": secret } }),
            "prompt",
            "a string or an array of token ids",
        ),
        (PLAIN, json!({ "prompt": [5, secret] }), "prompt", "prompt[1] must be a whole number"),
        (PLAIN, json!({ "prompt": [5, -1] }), "prompt", "from 0 to 4294967295"),
        (PLAIN, json!({ "prompt": ["a", secret] }), "prompt", "several in a request"),
        (PLAIN, json!({ "temperature": secret }), "temperature", "a number, but is a string"),
        (PLAIN, json!({ "stream": secret }), "stream", "a boolean, but is a string"),
        (PLAIN, json!({ "stop": [[secret]] }), "stop", "a string, but is an array"),
        (PLAIN, json!({ "model": [secret] }), "model", "a string, but is an array"),
        (PLAIN, json!({ "logit_bias": { secret: 1 } }), "logit_bias", "token ids with numbers"),
        (PLAIN, json!({ "logit_bias": { "5": secret } }), "logit_bias", "a number"),
        (PLAIN, json!({ "seed": 1e30 }), "seed", "a whole number of 64 bits"),
        (PLAIN, json!({ "max_tokens": 1.5 }), "max_tokens", "but is a fractional number"),
        (
            PLAIN,
            json!({ "stream": true, "stream_options": { "include_usage": secret } }),
            "stream_options.include_usage",
            "a boolean",
        ),
        (CHAT, json!({ "messages": { "a": secret } }), "messages", "an array, but is an object"),
        (CHAT, chat(json!([secret])), "messages[0]", "an object, but is an array"),
        (CHAT, chat(json!({ "content": secret })), "messages[0].role", "is missing"),
        (
            CHAT,
            chat(json!({ "role": "user", "content": [{ "type": "text", "text": [secret] }] })),
            "messages[0].content[0].text",
            "a string",
        ),
        (
            CHAT,
            chat(json!({ "role": "user", "content": [{ "type": secret }] })),
            "messages[0].content",
            "a part that is not text",
        ),
    ] {
        let answer = server.post(path, &body).await;
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status, &error["param"]), (400, &json!(place)), "{answer:?}");
        assert!(message(&answer).contains(expected), "{answer:?}");
        assert!(!answer.body.contains("SECRET"), "{answer:?}");
    }
    for (body, what) in [
        ("{\"prompt\": \"a\", \"prompt\": \"b\"}".to_owned(), "prompt is there twice"),
        ("{\"prompt\": NaN}".to_owned(), "not JSON"),
        ("{\"prompt\": \"a\", \"x\": 1e999}".to_owned(), "not JSON"),
        ("{\"prompt\": \"a\"} {}".to_owned(), "not JSON"),
        ("[\"demo\", 5]".to_owned(), "the JSON body must be an object"),
        (format!("{{\"prompt\": \"a\", \"n\": {}1", "[".repeat(9999)), "not JSON"),
    ] {
        let answer = server.ask("POST", PLAIN, &body).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(message(&answer).contains(what), "{answer:?}");
    }
}

#[tokio::test]
async fn a_conversation_may_be_written_as_openai_writes_it() {
    let mut server = server(vec![vec![say("text"), Act::Finish(Finish::Stop)]; 2]);
    let history = json!([
        { "role": "developer", "content": "hello", "name": "me" },
        { "role": "user", "content": [{ "type": "text", "text": "hello" }] },
        { "role": "assistant", "content": "hello", "tool_calls": [], "refusal": null },
        { "role": "assistant", "content": null, "tool_calls": null, "function_call": null },
        { "role": "assistant", "tool_calls": [] },
        { "role": "assistant", "content": [{ "type": "refusal", "refusal": "hello" }] },
        { "role": "assistant", "content": null, "refusal": "hello", "audio": null },
        { "role": "user", "content": "hello", "reasoning_content": null, "mood": "unknown" },
    ]);
    let answer = server.post(CHAT, &json!({ "messages": history })).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let long = server.scripted.seen.recv().await.unwrap().request.prompt;
    let same = ["hello", "hello", "hello", "", "", "hello", "hello", "hello"];
    let roles = history.as_array().unwrap().iter().map(|message| message["role"].clone());
    let same: Value = roles
        .zip(same)
        .map(|(role, content)| json!({ "role": role, "content": content }))
        .collect();
    assert_eq!(server.post(CHAT, &json!({ "messages": same })).await.status, 200);
    assert_eq!(server.scripted.seen.recv().await.unwrap().request.prompt, long);
    for (message, place) in [
        (json!({ "role": "user", "content": null }), "messages[0].content"),
        (json!({ "role": "tool", "content": "x", "tool_call_id": "1" }), "messages[0].role"),
        (json!({ "role": "assistant", "tool_calls": [{}] }), "messages[0].tool_calls"),
        (json!({ "role": "assistant", "function_call": {} }), "messages[0].function_call"),
    ] {
        let answer = server.post(CHAT, &json!({ "messages": [message] })).await;
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!(place)));
    }
}

#[tokio::test]
async fn a_request_that_is_too_long_has_openais_code_for_it() {
    let server = server(Vec::new());
    let chat = |text: &str| json!({ "messages": [{ "role": "user", "content": text }] });
    let mut greedy = chat("x");
    greedy["max_tokens"] = json!(5000);
    let mut newer = chat("x");
    newer["max_completion_tokens"] = json!(5000);
    for (path, body, param) in [
        (CHAT, chat(&"x".repeat(300)), "messages"),
        (CHAT, chat(&"x".repeat(200_000)), "messages"),
        (CHAT, greedy, "max_tokens"),
        (CHAT, newer, "max_completion_tokens"),
        (PLAIN, json!({ "prompt": "x".repeat(300) }), "prompt"),
        (PLAIN, json!({ "prompt": vec![5; 300] }), "prompt"),
    ] {
        let answer = server.post(path, &body).await;
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status, &error["param"]), (400, &json!(param)), "{error}");
        assert_eq!(error["code"], "context_length_exceeded");
        let begin = format!("this model's maximum context length is 256 tokens, but {param} ");
        assert!(message(&answer).starts_with(&begin), "{error}");
    }
}

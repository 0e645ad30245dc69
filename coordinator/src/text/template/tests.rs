//! Templates against what transformers makes of them (`tests/fixtures/templates`).

use super::*;
use jiff::civil::date;
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/templates")
}

fn json(name: &str) -> Json {
    serde_json::from_slice(&std::fs::read(fixtures().join(name)).unwrap()).unwrap()
}

/// A template with the special tokens that the fixtures were made with.
fn template(source: &str) -> ChatTemplate {
    let special = [("bos", "<s>"), ("eos", "</s>"), ("unk", "<unk>"), ("pad", "<pad>")];
    let named = |(name, token): (&str, &str)| (format!("{name}_token"), token.to_owned());
    ChatTemplate::new(source, special.map(named).into())
}

/// What the clock of the fixtures shows.
fn now() -> DateTime {
    date(2025, 3, 9).at(7, 5, 3, 0)
}

fn conversation(messages: &Json) -> Vec<Message> {
    let text = |value: &Json| value.as_str().unwrap().to_owned();
    let message = |message: &Json| Message {
        reasoning: message.get("reasoning_content").map(text),
        ..Message::new(text(&message["role"]), text(&message["content"]))
    };
    messages.as_array().unwrap().iter().map(message).collect()
}

fn rendered(source: &str) -> Result<String, String> {
    let hello = Message::new("user", "Hello");
    template(source).render_at(&[hello], now()).map_err(|error| error.to_string())
}

#[test]
fn published_templates_are_rendered_as_transformers_renders_them() {
    let (expected, conversations) = (json("expected.json"), json("conversations.json"));
    let mut compared = 0;
    for (name, text_filters) in expected.as_object().unwrap() {
        let source = std::fs::read_to_string(fixtures().join(name)).unwrap();
        let template = template(&source);
        let knows_developer = template.parsed.as_ref().unwrap().knows_developer;
        for (which, expected) in text_filters.as_object().unwrap() {
            let messages = conversation(&conversations[which]);
            let is_renamed = which == "developer" && !knows_developer;
            if let (Some(expected), false) = (expected.as_str(), is_renamed) {
                let text = template.render_at(&messages, now());
                assert_eq!(text.unwrap(), expected, "{name}, {which}");
                compared += 1;
            }
        }
    }
    assert!(compared > 500, "{compared}");
}

#[test]
fn every_piece_of_jinja_does_what_it_does_in_python() {
    let file = json("snippets.json");
    for (source, expected) in file["snippets"].as_object().unwrap() {
        let messages = Value::from(Serde(&file["messages"]));
        let text = template(source).render_values(messages, FUEL_BASE, now());
        match expected.as_str() {
            Some(expected) => assert_eq!(text.unwrap(), expected, "{source}"),
            None => assert!(text.is_err(), "{source}"),
        }
    }
}

#[test]
fn who_speaks_may_have_a_name() {
    let says = |name: Option<&str>| Message {
        name: name.map(str::to_owned),
        ..Message::new("user", "Hello")
    };
    let named = template("{{ messages[0].name }}, {{ 'name' in messages[1] }}");
    let rendered = named.render_at(&[says(Some("Ada")), says(None)], now());
    assert_eq!(rendered.unwrap(), "Ada, False");
}

#[test]
fn developers_speak_as_the_system_where_a_template_does_not_know_them() {
    let role = |source: &str| {
        let says = Message::new("developer", "");
        template(source).render_at(&[says], now()).unwrap()
    };
    assert_eq!(role("{{ messages[0].role }}"), "system");
    let refusing = "{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}";
    assert_eq!(role(refusing), "");
    assert_eq!(
        role("The developer: {{ 'a developer' }} {{ messages[0].role }}"),
        "The developer: a developer system"
    );
    let knowing = "{% if messages[0].role == \"developer\" %}{{ messages[0].role }}{% endif %}";
    assert_eq!(role(knowing), "developer");
}

#[test]
fn a_broken_template_says_where_when_it_is_asked_to_render() {
    assert_eq!(
        rendered("a\n{% if %}").unwrap_err(),
        "chat_template line 2: unexpected end of block"
    );
    let refusing =
        "{% if messages[0].role == 'user' %}\n{{ raise_exception('No users') }}{% endif %}";
    assert_eq!(rendered(refusing).unwrap_err(), "chat_template line 2: No users");
    assert_eq!(
        rendered("{{ 'x'|nothing }}").unwrap_err(),
        "chat_template line 1: filter nothing is unknown"
    );
    let text = ChatTemplate::broken("it is not there".into()).render(&[]);
    assert_eq!(text.unwrap_err().to_string(), "it is not there");
}

#[test]
fn a_template_that_never_ends_is_stopped() {
    let endless = "{% for i in range(9999) %}{% for i in range(9999) %}x{% endfor %}{% endfor %}";
    let error = rendered(endless).unwrap_err();
    assert!(error.starts_with("chat_template line 1: the conversation takes too long"), "{error}");
    assert!(template("{{ strftime_now('%Y') }}").render(&[]).unwrap().starts_with("20"));
}

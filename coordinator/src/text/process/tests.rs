//! The protocol between the coordinator and its text process. What limits and deaths do is in
//! `tests/e2e/text.rs`: that takes processes.

use super::wire::{self, Refusal, TextReply};
use super::{TextJob, TextProcess};
use crate::text::TextFacts;
use crate::text::testing::{CHATML, END, data, model};
use crate::text::{Message, TextData, TextError, TextModel};
use proptest::prelude::*;
use std::sync::{Arc, LazyLock};

static MODEL: LazyLock<Arc<TextModel>> = LazyLock::new(|| Arc::new(model()));

fn answer() -> impl Strategy<Value = TextReply> {
    prop_oneof![
        prop::collection::vec(any::<u32>(), 0..9).prop_map(TextReply::Tokens),
        prop::collection::vec(any::<u8>(), 0..9).prop_map(TextReply::Facts),
        "\\PC{0,9}".prop_map(|cause| TextReply::Refused(Refusal::Template(cause))),
        "\\PC{0,9}".prop_map(|cause| TextReply::Refused(Refusal::TooLong(cause))),
        "\\PC{0,9}".prop_map(|cause| TextReply::Refused(Refusal::Other(cause))),
    ]
}

proptest! {
    #[test]
    fn frames_in_any_pieces_are_the_frames_that_were_written(
        answers in prop::collection::vec((any::<u64>(), answer()), 0..6),
        piece in 1_usize..40,
    ) {
        let mut bytes = Vec::new();
        for (id, answer) in &answers {
            wire::write(&mut bytes, *id, &answer.to_payload()).unwrap();
        }
        let (mut arrived, mut found) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            arrived.extend_from_slice(piece);
            while let Some((id, payload)) = wire::take(&mut arrived).unwrap() {
                found.push((id, TextReply::of_payload(&payload).unwrap()));
            }
        }
        prop_assert!(arrived.is_empty());
        prop_assert_eq!(&found, &answers);
        let mut input = bytes.as_slice();
        for (id, answer) in answers {
            prop_assert_eq!(wire::read(&mut input).unwrap(), (id, answer.to_payload()));
        }
        prop_assert!(wire::read(&mut input).is_err(), "the end");
    }

    #[test]
    fn any_bytes_are_an_answer_or_none(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = TextReply::of_payload(&bytes);
        let _ = wire::take(&mut bytes.clone());
    }

    #[test]
    fn facts_survive_the_wire(ids in prop::collection::vec(0_u32..270, 0..40)) {
        let json = serde_json::to_vec(&**MODEL.facts()).unwrap();
        let facts: TextFacts = serde_json::from_slice(&json).unwrap();
        prop_assert_eq!(facts.decode(&ids), MODEL.facts().decode(&ids));
        prop_assert_eq!(facts.sampling(), MODEL.facts().sampling());
        for id in ids {
            prop_assert_eq!(facts.token_bytes(id), MODEL.facts().token_bytes(id));
        }
    }
}

#[test]
fn a_table_that_contradicts_itself_has_no_bytes() {
    let facts = r#"{"vocab":{"bytes":"abc","starts":[2,1,9,4],"drops_first_space":false,
        "names":{"3":"<x>"}},"end_ids":[],"notes":[],"has_template":false,"sampling":{"temperature":1,
        "top_k":0,"top_p":1,"min_p":0,"repetition_penalty":1,"presence_penalty":0,
        "frequency_penalty":0},"reasoning":{"harmony":null,"think":null,"template_thinks":true}}"#;
    let facts: TextFacts = serde_json::from_str(facts).unwrap();
    assert_eq!(facts.decode(&[0, 1, 2, 3, 4, u32::MAX]), "");
    assert_eq!(*facts.token_bytes(3), *b"<x>");
}

#[test]
fn the_process_encodes_as_the_model_does() {
    let process = TextProcess::in_thread(Arc::clone(&MODEL));
    assert_eq!(process.facts().end_ids(), MODEL.facts().end_ids());
    let prompt =
        |text: &str| TextJob::Prompt { text: text.into(), tokens_max: 9, add_special: true };
    let messages = vec![Message::new("user", "hello")];
    let chat = TextJob::Chat { messages: messages.clone(), tokens_max: 99, add_special: false };
    std::thread::scope(|scope| {
        for number in 0..16 {
            let (process, chat, messages) = (&process, &chat, &messages);
            scope.spawn(move || {
                let text = format!("hello {number}<|im_end|>");
                let direct = MODEL.encode_prompt(&text).unwrap();
                assert_eq!(direct.last(), Some(&END));
                assert_eq!(process.encode(&prompt(&text)).unwrap(), direct);
                let direct = MODEL.encode_chat(messages).unwrap();
                assert_eq!(process.encode(chat).unwrap(), direct);
            });
        }
    });
}

#[test]
fn an_error_of_the_template_arrives_as_one() {
    let refusing = "{{ raise_exception('not so') }}";
    for (template, expected) in
        [(Some(refusing), "not so"), (None, "the model has no chat template")]
    {
        let template = template.map(str::to_owned);
        assert_ne!(template.as_deref(), Some(CHATML));
        let model = TextModel::new(&TextData { chat_template: template, ..data() }).unwrap();
        let process = TextProcess::in_thread(Arc::new(model));
        let error = process
            .encode(&TextJob::Chat { messages: Vec::new(), tokens_max: 9, add_special: true })
            .unwrap_err();
        assert!(
            matches!(&error, TextError::Template(cause) if cause.contains(expected)),
            "{error}"
        );
    }
}

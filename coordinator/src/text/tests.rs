//! Text against what tokenizers, transformers and a plain search say.

mod gguf;

use super::testing::{END, byte_tokens, data, model};
use super::*;
use crate::sched::{Delivery, Finish, RequestId, Usage};
use binfer_proto::Token;
use proptest::prelude::*;
use std::sync::Arc;

fn message(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

fn streamed(model: &TextModel, tokens: &[Token]) -> Vec<String> {
    let mut detokenizer = Detokenizer::default();
    let mut pieces: Vec<String> = tokens
        .iter()
        .map(|token| {
            let mut piece = String::new();
            detokenizer.push(&model.facts.vocab, *token, &mut piece);
            piece
        })
        .collect();
    let mut rest = String::new();
    detokenizer.finish(&mut rest);
    pieces.push(rest);
    pieces
}

/// Where each stop string is first complete, and the longest of the first ones.
fn stopped_at<'a>(text: &'a str, stops: &[String]) -> Option<&'a str> {
    let found = stops.iter().filter_map(|stop| {
        let start = text.find(stop.as_str())?;
        Some((start + stop.len(), start))
    });
    found.min().map(|(_, start)| &text[..start])
}

proptest! {
    #[test]
    fn streaming_equals_decoding_at_once(ids in prop::collection::vec(0_u32..270, 0..40)) {
        let model = model();
        let at_once = model.tokenizer.decode(&ids, true).unwrap();
        prop_assert_eq!(streamed(&model, &ids).concat(), at_once.clone());
        prop_assert_eq!(model.facts.decode(&ids), at_once);
    }

    #[test]
    fn streaming_text_never_shows_a_broken_character(text in "\\PC{0,12}") {
        let model = model();
        let pieces = streamed(&model, &byte_tokens(text.as_bytes()));
        let broken = |text: &str| text.contains(char::REPLACEMENT_CHARACTER);
        prop_assert!(broken(&text) || !pieces.iter().any(|piece| broken(piece)));
        prop_assert_eq!(pieces.concat(), text);
    }

    #[test]
    fn encoding_is_undone_by_decoding(text in "\\PC{0,20}") {
        let model = model();
        prop_assert_eq!(model.facts.decode(&model.encode_prompt(&text).unwrap()), text);
    }

    #[test]
    fn stops_are_found_wherever_pieces_end(
        pieces in prop::collection::vec("[abé]{0,4}", 0..8),
        stops in prop::collection::vec("[abé]{1,4}", 0..4),
    ) {
        let text = pieces.concat();
        let mut matcher = StopMatcher::new(&stops, false);
        let (mut released, mut stopped) = (String::new(), None);
        for piece in &pieces {
            let mut piece = piece.clone();
            stopped = matcher.push(&mut piece, StopsBind::Yes);
            released.push_str(&piece);
            if stopped.is_some() {
                break;
            }
        }
        if stopped.is_none() {
            matcher.finish(&mut released);
        }
        let expected = stopped_at(&text, &stops);
        prop_assert_eq!(stopped.is_some(), expected.is_some());
        if let (Some(stop), Some(before)) = (stopped, expected) {
            prop_assert!(text[before.len()..].starts_with(&stops[stop]));
        }
        prop_assert_eq!(released.as_str(), expected.unwrap_or(&text));
    }
}

#[test]
fn control_tokens_are_parsed_in_prompts_unless_they_are_text() {
    let model = model();
    assert_eq!(model.encode_prompt("<|im_end|>").unwrap(), [END]);
    assert_eq!(model.encode_prompt("hello1").unwrap(), [262, 3 + u32::from(b'1')]);
    let plain = build_tokenizer(&data(), ControlTokens::Text).unwrap();
    assert_eq!(plain.encode_fast("<|im_end|>", true).unwrap().len(), "<|im_end|>".len());
    assert_eq!(model.facts.decode(&[1, 262, END]), "hello");
    assert_eq!(model.facts.end_ids(), [0, END]);
}

#[test]
fn a_first_token_is_added_to_plain_prompts_only() {
    let model = TextModel::new(&TextData { add_bos: true, ..data() }).unwrap();
    assert_eq!(model.encode_prompt("hello").unwrap(), [1, 262]);
    let chat = model.encode_chat(&[message("user", "hello")]).unwrap();
    assert_eq!(chat.iter().filter(|token| **token == 1).count(), 3, "system, user, assistant");
}

#[test]
fn chats_are_rendered_as_transformers_does() {
    let model = model();
    let chat = [message("user", "hello"), message("assistant", "w")];
    assert_eq!(
        model.render_chat(&chat).unwrap(),
        "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n\
         <|im_start|>assistant\nw<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn long_chats_have_fuel() {
    let chat: Vec<Message> = (0..4096).map(|_| message("user", "hello hello")).collect();
    assert!(model().render_chat(&chat).is_ok());
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let error = |data: &TextData| TextModel::new(data).unwrap_err().to_string();
    let other = error(&TextData { pre: "gemma4".into(), ..data() });
    let expected = "tokenizer.ggml.pre \"gemma4\" is not supported; supported: default, gpt-2, ";
    assert!(other.starts_with(expected), "{other}");
    let no_space = error(&TextData { merges: vec!["he".into()], ..data() });
    assert!(no_space.contains("without a space"), "{no_space}");
    let unknown = error(&TextData { merges: vec!["he zz".into()], ..data() });
    assert!(unknown.contains("zz"), "{unknown}");
    let long = error(&TextData { merges: vec!["<|im_start|> <|im_start|>".into()], ..data() });
    assert_eq!(long, "tokenizer: its data contradict themselves");
    let silent = TextModel::new(&TextData { chat_template: None, ..data() }).unwrap();
    let error = silent.encode_chat(&[message("user", "hello")]).unwrap_err().to_string();
    assert_eq!(error, "the model has no chat template");
}

const ID: RequestId = RequestId(1);

fn delivery(text: &str, finish: Option<Finish>) -> Delivery {
    Delivery {
        id: ID,
        tokens: byte_tokens(text.as_bytes()).into(),
        logprobs: Vec::new(),
        finish,
        usage: Usage::default(),
        end_token: None,
    }
}

fn stops(stop: &str) -> AskedText {
    AskedText { stop: vec![stop.to_owned()], ..AskedText::default() }
}

fn said(pushed: &Pushed<'_>) -> String {
    pushed.text.text_of(TextKind::Content)
}

#[test]
fn the_stage_holds_back_what_may_be_a_stop_string() {
    let mut stage = TextStage::new(Arc::clone(model().facts()), ReasoningFormat::Off);
    stage.open(ID, stops("END"), ReasoningParser::Off);
    let mut push = |text, finish| {
        let pushed = stage.push(&delivery(text, finish));
        (pushed.text.text_of(TextKind::Content), pushed.stop)
    };
    assert_eq!(push("abE", None), ("ab".into(), None));
    assert_eq!(push("N", None), (String::new(), None));
    assert_eq!(push("E", None), ("EN".into(), None));
    assert_eq!(push("NDmore", None), (String::new(), Some(0)));
    assert_eq!(push("late", Some(Finish::Length)), (String::new(), None));

    stage.open(ID, stops("END"), ReasoningParser::Off);
    assert_eq!(said(&stage.push(&delivery("aEN", Some(Finish::Length)))), "aEN");
    stage.close(ID);
    assert_eq!(said(&stage.push(&delivery("a", None))), "");
}

#[test]
fn the_stage_flushes_a_broken_character_at_the_end_only() {
    let mut stage = TextStage::new(Arc::clone(model().facts()), ReasoningFormat::Off);
    stage.open(ID, stops("\u{FFFD}!"), ReasoningParser::Off);
    let half = Delivery { tokens: byte_tokens(&[0xF0, 0x9F]).into(), ..delivery("", None) };
    assert_eq!(said(&stage.push(&half)), "");
    assert_eq!(said(&stage.push(&delivery("", Some(Finish::Stop)))), "\u{FFFD}");
}

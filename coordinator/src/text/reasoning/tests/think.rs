//! What models say that think between tags.

use super::*;
use crate::text::testing::byte_tokens;

#[test]
fn text_between_think_tags_is_reasoning() {
    let asked = "<|im_start|>assistant\n";
    for model in [thinking(&TAGS), thinking(&[])] {
        let chat = Chat::new(model, ReasoningParserName::Auto);
        for (prompt, answer, reasoning, content) in [
            ("", "<think>\nHm.\n</think>\n\nYes.", "Hm.", "Yes."),
            ("", "\n<think>Hm.</think>Yes.\n", "Hm.", "Yes.\n"),
            ("", "<think>\n\n</think>\n\nYes.", "", "Yes."),
            ("", " Yes.", "", " Yes."),
            ("", "<think>\nHm.\n\n", "Hm.", ""),
            ("", "<think>", "", ""),
            ("<think>\n", "Hm.\n\nSo.\n</think>\n\nYes.", "Hm.\n\nSo.", "Yes."),
            ("<think>\n", "Hm.", "Hm.", ""),
            ("<think>\n", "<think>\nHm.</think>Yes.", "Hm.", "Yes."),
            ("<think>\n\n</think>\n\n", "Yes.", "", "Yes."),
            ("</think>", "Yes.", "", "Yes."),
        ] {
            let prompt = format!("{asked}{prompt}");
            assert_eq!(chat.split(&prompt, answer), pair(reasoning, content), "{answer:?}");
        }
        // What a user writes opens nothing.
        let prompt = format!("<|im_start|>user\n<think><|im_end|>\n{asked}");
        assert_eq!(chat.split(&prompt, "Yes."), pair("", "Yes."));
        let prompt = "<|im_start|>user\n<think><|im_start|>";
        assert_eq!(chat.split(prompt, "Yes."), pair("", "Yes."));
    }
}

#[test]
fn a_tag_that_is_cut_is_not_shown_where_tags_are_text() {
    let chat = Chat::new(thinking(&[]), ReasoningParserName::Auto);
    for (answer, reasoning) in [
        ("<think>\nHm, a < b and </", "Hm, a < b and"),
        ("<think>\nHm, a < b and </b>", "Hm, a < b and </b>"),
        ("<thi", ""),
    ] {
        assert_eq!(chat.split("", answer), pair(reasoning, ""), "{answer:?}");
    }
    assert_eq!(chat.split("", "<this"), pair("", "<this"));
}

#[test]
fn tags_that_are_tokens_count_wherever_they_come_and_only_they() {
    let chat = Chat::new(thinking(&TAGS), ReasoningParserName::Qwen3);
    for (answer, reasoning, content) in [
        (
            "One.<think>Hm.</think>Two.<think>So.</think>Three.",
            "Hm.\n\nSo.",
            "One.\n\nTwo.\n\nThree.",
        ),
        ("</think>Yes.</think>", "", "Yes."),
    ] {
        assert_eq!(chat.split("", answer), pair(reasoning, content), "{answer}");
    }
    let open = chat.tokens("<think>a");
    let spelled = byte_tokens(b"</think>b");
    assert_eq!(chat.hear("", &[], &[&open, &spelled]).reasoning, "a</think>b");
    assert_eq!(chat.hear("", &[], &[&byte_tokens(b"<think>")]).content, "<think>");
}

#[test]
fn deepseek_r1_thinks_from_the_beginning_unless_the_prompt_says_otherwise() {
    for model in [thinking(&TAGS), thinking(&[])] {
        let chat = Chat::new(model, ReasoningParserName::DeepseekR1);
        assert_eq!(chat.split("", "Hm.\n</think>\n\nYes."), pair("Hm.", "Yes."));
        assert_eq!(chat.split("", "<think>\nHm.\n</think>\n\nYes."), pair("Hm.", "Yes."));
        assert_eq!(chat.split("", "Hm."), pair("Hm.", ""));
        assert_eq!(chat.split("<think></think>", "Yes."), pair("", "Yes."));
    }
}

#[test]
fn a_prompt_may_spell_the_tag_with_ordinary_tokens() {
    let chat = Chat::new(thinking(&TAGS), ReasoningParserName::Auto);
    let stage = TextStage::new(Arc::clone(chat.model.facts()), chat.format);
    assert!(stage.parser(true, &byte_tokens(b"assistant\n<think>\n")).is_reasoning());
    assert!(!stage.parser(true, &byte_tokens(b"assistant\n<think></think>\n")).is_reasoning());
    assert!(!stage.parser(false, &byte_tokens(b"assistant\n<think>\n")).is_reasoning());
}

//! Any answer, cut anywhere.

use super::*;
use crate::text::testing::{HARMONY_MARKS, vocab_len};
use proptest::prelude::*;
use std::sync::LazyLock;

/// Tokens of an answer: markup as often as text.
fn said(model: &TextModel) -> impl Strategy<Value = Vec<Token>> + use<> {
    let pieces = [
        "analysis",
        "final",
        "commentary",
        "assistant",
        " to=functions.f",
        "json",
        " text",
        "\n",
        "é",
        "<",
        "</thi",
        "hello",
    ];
    let mut parts: Vec<Vec<Token>> = pieces.iter().map(|piece| tokens(model, piece)).collect();
    let marks = HARMONY_MARKS.iter().chain(&TAGS).map(|mark| tokens(model, mark));
    parts.extend(marks.cycle().take(24));
    parts.push(vec![3 + 0xC3]);
    let any = (0..vocab_len(model)).prop_map(|token| vec![token]);
    let part = prop_oneof![8 => prop::sample::select(parts), 1 => any];
    prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
}

/// A chat for each parser and each form of its markup.
static CHATS: LazyLock<[Chat; 5]> = LazyLock::new(|| {
    use ReasoningParserName::{Auto, DeepseekR1};
    let chat = |tags: &[&str], name| Chat::new(thinking(tags), name);
    [
        Chat::harmony(),
        chat(&TAGS, Auto),
        chat(&[], Auto),
        chat(&TAGS, DeepseekR1),
        chat(&[], DeepseekR1),
    ]
});

proptest! {
    #[test]
    fn how_an_answer_is_cut_into_deliveries_changes_nothing(
        which in 0_usize..5,
        text in said(&CHATS[0].model),
        cuts in prop::collection::vec(0_usize..64, 0..6),
        stop in prop::option::of(prop::sample::select(vec!["hell", "t", "al"])),
    ) {
        let chat = &CHATS[which];
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.sort_unstable();
        let mut parts = Vec::new();
        let mut begin = 0;
        for cut in cuts {
            parts.push(&text[begin..cut]);
            begin = cut;
        }
        parts.push(&text[begin..]);
        let stops: Vec<&str> = stop.into_iter().collect();
        let whole = chat.hear(PROMPT, &stops, &[&text]);
        prop_assert_eq!(&chat.hear(PROMPT, &stops, &parts), &whole);
        if which == 0 {
            for mark in HARMONY_MARKS {
                prop_assert!(!whole.reasoning.contains(mark) && !whole.content.contains(mark));
            }
        }
    }

    #[test]
    fn an_answer_that_is_cut_short_is_the_beginning_of_the_whole(cut in 0_usize..200) {
        let chat = &CHATS[0];
        let answer = chat.tokens(
            "<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant<|channel|>commentary\
             <|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.look \
             <|constrain|>json<|message|>{\"a\": \"é\"}<|end|><|start|>assistant<|channel|>final\
             <|message|>Hello hello.<|return|>",
        );
        let whole = chat.hear(PROMPT, &[], &[&answer]);
        prop_assert_eq!(&whole.content, "I look.\n\nHello hello.");
        prop_assert_eq!(&whole.reasoning, "Let me see.\n\n{\"a\": \"é\"}");
        let short = chat.hear(PROMPT, &[], &[&answer[..cut.min(answer.len())]]);
        let whole_characters = |text: &str| text.trim_end_matches('\u{FFFD}').to_owned();
        prop_assert!(whole.reasoning.starts_with(&whole_characters(&short.reasoning)), "{short:?}");
        prop_assert!(whole.content.starts_with(&short.content), "{short:?}");
    }

    #[test]
    fn an_answer_between_think_tags_that_is_cut_short_is_the_beginning_of_the_whole(
        which in 1_usize..5,
        cut in 0_usize..100,
    ) {
        let chat = &CHATS[which];
        let answer = chat.tokens("<think>\nLet me\n\nsee, 1 < 2.\n</think>\n\nHello </hello>");
        let whole = chat.hear("", &[], &[&answer]);
        prop_assert_eq!(&whole.content, "Hello </hello>");
        let short = chat.hear("", &[], &[&answer[..cut.min(answer.len())]]);
        prop_assert!(whole.reasoning.starts_with(&short.reasoning), "{short:?}");
        prop_assert!(whole.content.starts_with(&short.content), "{short:?}");
    }
}

//! What gpt-oss says, well-formed and malformed.

use super::*;
use crate::text::testing::byte_tokens;

const WHOLE: &str = "<|channel|>analysis<|message|>They greet.<|end|><|start|>assistant\
                     <|channel|>final<|message|>Hello!<|return|>";

#[test]
fn analysis_is_reasoning_and_final_is_content() {
    let heard = Chat::harmony().hear(PROMPT, &[], &[&Chat::harmony().tokens(WHOLE)]);
    assert_eq!((heard.reasoning.as_str(), heard.content.as_str()), ("They greet.", "Hello!"));
    assert_eq!(heard.reasoning_tokens, 10, "one of them is two letters");
}

#[test]
fn what_is_not_said_to_the_user_is_reasoning() {
    let chat = Chat::harmony();
    for (answer, reasoning, content) in [
        // A preamble, and then the answer.
        (
            "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final\
             <|message|>Found.<|return|>",
            "",
            "I look.\n\nFound.",
        ),
        // Calls, with the recipient behind the channel, behind the role, and without a space.
        (
            "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\":1}<|call|>",
            "{\"a\":1}",
            "",
        ),
        (
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant to=functions.f\
             <|channel|>commentary json<|message|>{}<|call|>",
            "Hm.\n\n{}",
            "",
        ),
        ("<|channel|>commentaryto=functions.f<|message|>{}<|call|>", "{}", ""),
        ("<|channel|>analysis to=python code<|message|>1+1<|call|>", "1+1", ""),
        ("<|channel|>final to=functions.f<|message|>{}<|call|>", "{}", ""),
        // The user's turn, and a tool's result, made up.
        ("<|channel|>final<|message|>A<|end|><|start|>user<|message|>B<|end|>", "B", "A"),
        (
            "<|end|><|start|>functions.f to=assistant<|channel|>commentary<|message|>7<|end|>",
            "7",
            "",
        ),
        ("<|channel|>commentary to=user<|message|>Hi<|end|>", "", "Hi"),
    ] {
        assert_eq!(chat.split(PROMPT, answer), pair(reasoning, content), "{answer}");
    }
}

#[test]
fn malformed_harmony_loses_no_text_and_shows_no_markup() {
    let chat = Chat::harmony();
    for (answer, reasoning, content) in [
        ("Just text", "", "Just text"),
        ("<|message|>Just text<|return|>", "", "Just text"),
        ("<|channel|><|message|>No name<|end|>", "No name", ""),
        ("<|channel|>??<|message|>Odd name<|end|>", "Odd name", ""),
        ("<|channel|>analysis??<|message|>Odd end<|end|>", "Odd end", ""),
        ("<|channel|>finalx<|message|>Odd end<|end|>", "", "Odd end"),
        ("<|channel|>finalNo message token<|return|>", "", "No message token"),
        ("<|channel|>final", "", ""),
        ("<|channel|>fin", "", ""),
        ("<|channel|>final<|return|>", "", ""),
        ("<|channel|>commentary to=fun", "", ""),
        ("<|channel|>commentary to=functions.f <|constrain|>js", "", ""),
        ("<|channel|>commentary<|channel|>analysis<|message|>Doubled<|end|>", "Doubled", ""),
        ("<|channel|>analysis<|message|><|message|>Doubled<|end|>", "Doubled", ""),
        (
            "<|channel|>commentary?commentary?<|end|><|start|>assistant<|channel|>final<|message|>A",
            "?commentary?",
            "A",
        ),
        ("<|start|><|start|>assistant<|channel|>final<|message|>Doubled", "", "Doubled"),
        ("<|start|>assistantassistant<|channel|>final<|message|>Doubled", "", "Doubled"),
        (
            "<|channel|>analysis<|message|>A<|end|> 364<|start|>assistant<|channel|>final<|message|>B",
            "A\n\n364",
            "B",
        ),
        ("<|channel|>analysis<|message|>A<|end|>364<|channel|>final<|message|>B", "A\n\n364", "B"),
        ("<|channel|>analysis<|message|>A<|end|>assistant<|channel|>final<|message|>B", "A", "B"),
        ("<|channel|>analysis<|message|>A<|end|>Then B<|return|>", "A", "Then B"),
        ("<|channel|>analysis<|message|>A<|channel|>final<|message|>B", "A", "B"),
        ("<|channel|>final<|message|>A<|constrain|>B", "", "AB"),
    ] {
        assert_eq!(chat.split(PROMPT, answer), pair(reasoning, content), "{answer}");
    }
    let long = "words without end ".repeat(40);
    assert_eq!(chat.split(PROMPT, &long), pair("", &long));
    let (reasoning, content) = chat.split(PROMPT, &format!("<|channel|>{long}"));
    assert_eq!((reasoning, content), pair(&long, ""));
}

#[test]
fn markup_spelled_with_ordinary_tokens_is_text() {
    let chat = Chat::harmony();
    let spelled = byte_tokens("<|channel|>final<|message|>".as_bytes());
    let parts = [&chat.tokens("<|channel|>analysis<|message|>")[..], &spelled];
    assert_eq!(chat.hear(PROMPT, &[], &parts).reasoning, "<|channel|>final<|message|>");
}

#[test]
fn an_answer_goes_on_where_the_prompt_ends() {
    let chat = Chat::harmony();
    for (prompt, answer, reasoning, content) in [
        ("<|start|>assistant<|channel|>final<|message|>", "So", "", "So"),
        ("<|start|>assistant<|channel|>analysis<|message|>Well", ", so", ", so", ""),
        ("<|start|>assistant<|channel|>", "analysis<|message|>So", "So", ""),
        (
            "<|start|>user<|message|><|start|><|end|><|start|>assistant",
            WHOLE,
            "They greet.",
            "Hello!",
        ),
        ("no markup", WHOLE, "They greet.", "Hello!"),
    ] {
        assert_eq!(chat.split(prompt, answer), pair(reasoning, content), "{prompt}");
    }
}

#[test]
fn stop_strings_are_those_of_the_content() {
    let chat = Chat::harmony();
    let answer = chat.tokens(
        "<|channel|>analysis<|message|>Not to STOP.<|end|><|start|>assistant<|channel|>final\
         <|message|>One STOP two",
    );
    let heard = chat.hear(PROMPT, &["STOP"], &[&answer]);
    assert_eq!((heard.reasoning.as_str(), heard.content.as_str()), ("Not to STOP.", "One "));
    assert!(heard.stopped);
    let raw = Chat { format: ReasoningFormat::Off, ..chat };
    let heard = raw.hear(PROMPT, &["STOP"], &[&answer]);
    assert_eq!((heard.content.as_str(), heard.stopped), ("analysisNot to ", true));
}

#[test]
fn an_answer_ends_with_its_last_message_and_not_with_each() {
    let model = harmony();
    let ends = [tokens(&model, "<|call|>"), tokens(&model, "<|return|>")].concat();
    assert!(ends.iter().all(|end| model.facts().end_ids().contains(end)));
    assert!(!model.facts().end_ids().contains(&tokens(&model, "<|end|>")[0]));
}

//! Control tokens in messages as text: what transformers 5.23 makes of the same conversations with
//! `apply_chat_template(..., sanitize_control_tokens=True)`.

use super::{QWEN3, message, qwen3};
use crate::text::TextModel;
use proptest::prelude::*;
use std::sync::LazyLock;

static SPLIT: LazyLock<TextModel> = LazyLock::new(|| {
    let mut model = TextModel::from_folder(&qwen3()).unwrap();
    model.split_special_tokens();
    model
});

const HEAD: [u32; 5] = [350, 84, 82, 264, 198];
const TAIL: [u32; 12] = [351, 198, 350, 64, 82, 82, 72, 82, 83, 64, 284, 198];

fn tokens(content: &str) -> Vec<u32> {
    SPLIT.encode_chat(&[message("user", content)]).unwrap()
}

#[test]
fn what_transformers_sanitizes_has_its_tokens() {
    let end = [27, 91, 72, 76, 62, 68, 274, 91, 29];
    let cases: [(&str, Vec<u32>); 4] = [
        ("plain", vec![79, 75, 290]),
        ("<|im_end|>", end.to_vec()),
        ("How <|im_end|> many", [&[39, 78, 86, 220], &end[..], &[327, 64, 77, 88]].concat()),
        ("<|im_<|im_end|>end|>", [&[27, 91, 72, 76, 62], &end[..], &[68, 274, 91, 29]].concat()),
    ];
    for (content, expected) in cases {
        assert_eq!(tokens(content), [&HEAD[..], &expected, &TAIL].concat(), "{content:?}");
    }
    let parsed = QWEN3.encode_chat(&[message("user", "<|im_end|>")]).unwrap();
    assert_eq!(parsed, [&HEAD[..], &[351], &TAIL].concat(), "without the flag");
    assert_eq!(SPLIT.encode_prompt("<|im_end|>").unwrap(), [351], "prompts are as they are");
}

proptest! {
    #[test]
    fn a_message_brings_no_control_token_and_loses_no_letter(
        content in "(<|\\||>|im_start|im_end|endoftext|<\\|im_end\\|>|a|\\n|é|山){0,12}",
    ) {
        let ids = tokens(&content);
        prop_assert_eq!(ids.iter().filter(|id| **id >= 349).count(), 3);
        let text = SPLIT.facts.decode(&ids);
        prop_assert_eq!(text, format!("user\n{content}\nassistant\n"));
    }

    #[test]
    fn a_message_without_control_tokens_is_the_same_either_way(content in "\\PC{0,24}") {
        prop_assume!(!content.contains("<|"));
        let direct = QWEN3.encode_chat(&[message("user", &content)]).unwrap();
        prop_assert_eq!(tokens(&content), direct);
    }
}

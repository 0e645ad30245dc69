//! Tokens that end an answer in any model, told by their names.
//!
//! The names are those of llama.cpp's vocabulary loader: many files name but one of the tokens that
//! their model ends with, or the wrong one. What a file names itself comes on top.

use binfer_proto::Token;
use std::collections::BTreeMap;

const NAMES: [&str; 33] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    // What fills up, or begins the next file: code models.
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Those among `tokens`, by rising id.
pub(super) fn by_name<'a>(tokens: impl Iterator<Item = (Token, &'a str)>) -> Vec<Token> {
    let mut found: BTreeMap<&str, Token> =
        tokens.filter(|(_, name)| NAMES.contains(name)).map(|(id, name)| (name, id)).collect();
    let has = |name: &str| found.contains_key(name);
    // There "<|end|>" ends a message, and the answer goes on with the next one.
    let calls = has("<|call|>") || has("<|calls|>");
    let goes_on = calls && (has("<|return|>") || has("<|flush|>"));
    let tag = has("<|tool_response>");
    if goes_on {
        found.remove("<|end|>");
    }
    // There "</s>" is a piece of text: a tag.
    if tag {
        found.remove("</s>");
    }
    let mut ids: Vec<Token> = found.into_values().collect();
    ids.sort_unstable();
    ids
}

//! Tokens that end an answer in any model, found by their names.
//!
//! Many files name only one of the tokens that their model ends with, or the wrong one. The names
//! here are those of llama.cpp's vocabulary loader. The tokens that a file names come in addition.

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
    // Code models pad with these, or begin the next file.
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

/// The tokens with such names among `tokens`, by rising id.
pub(super) fn by_name<'a>(tokens: impl Iterator<Item = (Token, &'a str)>) -> Vec<Token> {
    let mut found: BTreeMap<&str, Token> =
        tokens.filter(|(_, name)| NAMES.contains(name)).map(|(id, name)| (name, id)).collect();
    let has = |name: &str| found.contains_key(name);
    // In such a vocabulary "<|end|>" ends a message, and the answer goes on with the next message.
    let calls = has("<|call|>") || has("<|calls|>");
    let goes_on = calls && (has("<|return|>") || has("<|flush|>"));
    let tag = has("<|tool_response>");
    if goes_on {
        found.remove("<|end|>");
    }
    // In such a vocabulary "</s>" is a piece of text, a tag.
    if tag {
        found.remove("</s>");
    }
    let mut ids: Vec<Token> = found.into_values().collect();
    ids.sort_unstable();
    ids
}

/// What a person is told of a model without any such token.
pub(super) fn note_without(end_ids: &[Token]) -> Option<String> {
    let note = "the model's files name no token that ends an answer (eos_token_id): answers end at \
                max_tokens, a stop string or the end of the context";
    end_ids.is_empty().then(|| note.to_owned())
}

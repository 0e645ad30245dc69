//! Builds the tokenizer that a model's files describe.
//!
//! Text to tokens only: the way back is `detokenize.rs`, which needs no tokenizer. What is not
//! supported is refused by name, because a wrong split gives a model that seems to work.

use super::TextError;
use super::data::{TextData, TokenKind};
use std::panic::AssertUnwindSafe;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, PreTokenizerWrapper, Tokenizer};

/// How control tokens in a text are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlTokens {
    /// As the tokens that they are.
    Parsed,
    /// As ordinary text.
    Text,
}

const FAMILIES: &str = "gpt2";
const PRE_TOKENIZERS: &str = "smollm";

/// Builds the tokenizer.
pub fn build(data: &TextData, control: ControlTokens) -> Result<Tokenizer, TextError> {
    if data.family != "gpt2" {
        return Err(TextError::Unsupported {
            key: "tokenizer.ggml.model",
            found: data.family.clone(),
            supported: FAMILIES,
        });
    }
    let mut tokenizer = Tokenizer::new(bpe(data)?);
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer(&data.pre)?));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
    tokenizer.add_special_tokens(added(data, TokenKind::Control)).map_err(wrong)?;
    tokenizer.add_tokens(added(data, TokenKind::Added)).map_err(wrong)?;
    tokenizer.set_encode_special_tokens(control == ControlTokens::Text);
    Ok(tokenizer)
}

/// Tokens of a kind, to be found whole in a text before it is split.
fn added(data: &TextData, kind: TokenKind) -> impl Iterator<Item = AddedToken> {
    let all = data.tokens.iter().zip(&data.kinds);
    all.filter(move |(_, other)| **other == kind).map(move |(word, _)| {
        AddedToken::from(word.clone(), kind == TokenKind::Control).normalized(false)
    })
}

fn bpe(data: &TextData) -> Result<BPE, TextError> {
    let mut vocab = Vocab::default();
    vocab.reserve(data.tokens.len());
    for (id, word) in (0_u32..).zip(&data.tokens) {
        vocab.insert(word.clone(), id);
    }
    let merges: Option<Merges> = data.merges.iter().map(|merge| pair(merge)).collect();
    let Some(merges) = merges else {
        return Err(TextError::Data("tokenizer.ggml.merges has an entry without a space".into()));
    };
    guarded(|| BPE::builder().vocab_and_merges(vocab, merges).build()).map_err(TextError::Data)
}

/// Runs the library over data from outside: some that contradict themselves make it panic.
pub(super) fn guarded<T>(build: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match std::panic::catch_unwind(AssertUnwindSafe(build)) {
        Ok(built) => built.map_err(|error| error.to_string()),
        Err(_) => Err("its data contradict themselves".into()),
    }
}

fn pair(merge: &str) -> Option<(String, String)> {
    let (left, right) = merge.split_once(' ')?;
    Some((left.to_owned(), right.to_owned()))
}

fn pre_tokenizer(name: &str) -> Result<PreTokenizerWrapper, TextError> {
    match name {
        // Each digit alone, then GPT-2's pattern.
        "smollm" => Ok(Sequence::new(vec![
            Digits::new(true).into(),
            ByteLevel::new(false, true, true).into(),
        ])
        .into()),
        other => Err(TextError::Unsupported {
            key: "tokenizer.ggml.pre",
            found: other.to_owned(),
            supported: PRE_TOKENIZERS,
        }),
    }
}

fn wrong(error: tokenizers::Error) -> TextError {
    TextError::Data(error.to_string())
}

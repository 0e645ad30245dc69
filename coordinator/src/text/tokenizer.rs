//! Builds the tokenizer that a GGUF file describes.
//!
//! It turns text into tokens; `detokenize.rs` does the opposite without a tokenizer. What is not
//! supported is refused by name, because with a wrong split a model only seems to work.

use super::data::{TextData, TokenKind, TokenizerFamily};
use super::error::TextError;
use super::guarded::guarded;
use super::pre_tokenizer::PreTokenizerKind;
use super::sentence_piece;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

/// How control tokens in a text are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlTokens {
    /// They are control tokens.
    Parsed,
    /// They are ordinary text.
    Text,
}

/// Builds the tokenizer.
pub fn build(data: &TextData, control: ControlTokens) -> Result<Tokenizer, TextError> {
    let mut vocab = Vocab::default();
    vocab.reserve(data.tokens.len());
    for (id, word) in (0_u32..).zip(&data.tokens) {
        vocab.insert(word.clone(), id);
    }
    let mut tokenizer = match data.family {
        TokenizerFamily::ByteLevel => byte_level(data, vocab)?,
        TokenizerFamily::SentencePiece => {
            let mut tokenizer = Tokenizer::new(sentence_piece::bpe(data, vocab)?);
            tokenizer.with_normalizer(Some(sentence_piece::normalizer(data)?)).map_err(wrong)?;
            tokenizer
        }
    };
    tokenizer.add_special_tokens(added(data, TokenKind::Control)).map_err(wrong)?;
    tokenizer.add_tokens(added(data, TokenKind::Added)).map_err(wrong)?;
    tokenizer.set_encode_special_tokens(control == ControlTokens::Text);
    Ok(tokenizer)
}

fn byte_level(data: &TextData, vocab: Vocab) -> Result<Tokenizer, TextError> {
    let pre = PreTokenizerKind::named(&data.pre)?;
    let merges: Option<Merges> = data.merges.iter().map(|merge| pair(merge)).collect();
    let Some(merges) = merges else {
        return Err(TextError::Data("tokenizer.ggml.merges has an entry without a space".into()));
    };
    let bpe = BPE::builder().vocab_and_merges(vocab, merges);
    let bpe = bpe.ignore_merges(pre.whole_pieces_first);
    let mut tokenizer = Tokenizer::new(guarded(|| bpe.build())?);
    tokenizer.with_normalizer(pre.normalizer()).map_err(wrong)?;
    tokenizer.with_pre_tokenizer(Some(pre.splitter()?));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
    Ok(tokenizer)
}

/// The tokens of a kind, which are found whole in a text before it is split.
fn added(data: &TextData, kind: TokenKind) -> impl Iterator<Item = AddedToken> {
    let all = data.tokens.iter().zip(&data.kinds);
    all.filter(move |(_, other)| **other == kind).map(move |(word, _)| {
        AddedToken::from(word.clone(), kind == TokenKind::Control).normalized(false)
    })
}

fn pair(merge: &str) -> Option<(String, String)> {
    let (left, right) = merge.split_once(' ')?;
    Some((left.to_owned(), right.to_owned()))
}

fn wrong(error: tokenizers::Error) -> TextError {
    TextError::Data(error.to_string())
}

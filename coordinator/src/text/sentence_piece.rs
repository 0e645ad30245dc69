//! SentencePiece vocabularies of GGUF files (`tokenizer.ggml.model` "llama").
//!
//! Such a file has a score for each piece and no merges. The merges follow from the scores as in
//! transformers' conversion: a piece is merged from each pair of pieces that spell it, and better
//! scores go first. Text that no piece spells becomes bytes (`<0xNN>`).

use super::data::{TextData, TokenKind};
use super::error::TextError;
use super::guarded::guarded;
use std::cmp::Reverse;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::{NormalizerWrapper, Sequence};

/// The longest piece, of which every split is tried.
const PIECE_BYTES_MAX: usize = 1024;
/// The character that stands for a space.
const SPACE: &str = "\u{2581}";

/// The model with the merges that follow from the scores.
pub(super) fn bpe(data: &TextData, vocab: Vocab) -> Result<BPE, TextError> {
    let merges = merges(data, &vocab)?;
    let mut builder =
        BPE::builder().vocab_and_merges(vocab, merges).fuse_unk(true).byte_fallback(true);
    let unknown = data.written(data.unknown);
    if !unknown.is_empty() {
        builder = builder.unk_token(unknown.to_owned());
    }
    Ok(guarded(|| builder.build())?)
}

/// Replaces spaces by U+2581 and puts one in front of each text, unless the file says otherwise.
pub(super) fn normalizer(data: &TextData) -> Result<NormalizerWrapper, TextError> {
    let spaces = Replace::new(" ", SPACE).map_err(|error| TextError::Data(error.to_string()))?;
    let before = data.add_space_prefix.then(|| Prepend::new(SPACE.to_owned()).into());
    Ok(Sequence::new(before.into_iter().chain([spaces.into()]).collect()).into())
}

fn merges(data: &TextData, vocab: &Vocab) -> Result<Merges, TextError> {
    if data.scores.len() != data.tokens.len() {
        let (scores, tokens) = (data.scores.len(), data.tokens.len());
        return Err(TextError::Data(format!(
            "tokenizer.ggml.scores has {scores} entries for {tokens} tokens"
        )));
    }
    let mut found = Vec::new();
    for ((word, kind), score) in data.tokens.iter().zip(&data.kinds).zip(&data.scores) {
        if *kind == TokenKind::Control {
            continue;
        }
        if word.len() > PIECE_BYTES_MAX {
            let bytes = word.len();
            return Err(TextError::Data(format!(
                "tokenizer.ggml.tokens has a piece of {bytes} bytes, over {PIECE_BYTES_MAX}"
            )));
        }
        let first = found.len();
        for (at, _) in word.char_indices().skip(1) {
            let (left, right) = word.split_at(at);
            if let (Some(left_id), Some(right_id)) = (vocab.get(left), vocab.get(right)) {
                found.push((*score, (*left_id, *right_id), left, right));
            }
        }
        found[first..].sort_by_key(|(_, ids, ..)| *ids);
    }
    let chars = |text: &str| Reverse(text.chars().count());
    found.sort_by(|(score, _, left, right), (other, _, other_left, other_right)| {
        let longer = (chars(left), chars(right)).cmp(&(chars(other_left), chars(other_right)));
        other.total_cmp(score).then(longer)
    });
    let owned = |left: &str, right: &str| (left.to_owned(), right.to_owned());
    Ok(found.into_iter().map(|(.., left, right)| owned(left, right)).collect())
}

//! Reads the tokenizer, the chat template and the sampling defaults of a Hugging Face folder.
//!
//! The tokenizers library encodes, and [`Vocab`] decodes. Valid UTF-8 is decoded as in
//! transformers. Broken bytes become U+FFFD as in `String::from_utf8_lossy`. As in vLLM,
//! `clean_up_tokenization_spaces` is not applied.

mod chat;
mod decoder;
mod error;
mod files;
mod generation;
mod special;
#[cfg(test)]
mod tests;

use super::end_tokens;
use super::guarded::guarded;
use super::reasoning::ReasoningMarks;
use super::vocab::WrittenToken;
use super::{ChatTemplate, TextError, TextFacts, TextModel, Vocab};
use binfer_proto::Token;
use decoder::TokenizerHeader;
use error::TokenizerFileError;
use files::{ModelFolder, TOKENIZER};
use generation::GenerationConfig;
use special::{SpecialTokenFiles, check_id};
use std::path::Path;
use std::sync::Arc;
use tokenizers::Tokenizer;

/// Token ids must be below this, because decoding uses a table over all of them.
const IDS_MAX: u32 = 1 << 22;

/// Reads the folder `dir`.
pub(super) fn open(dir: &Path) -> Result<TextModel, TextError> {
    let folder = ModelFolder(dir);
    let Some(bytes) = folder.bytes(TOKENIZER)? else {
        let cause = "there is no such file, and nothing else is read for it (no tokenizer.model); \
                     download it";
        return Err(folder.wrong(TOKENIZER, cause));
    };
    let wrong = |cause: TokenizerFileError| folder.wrong(TOKENIZER, cause.to_string());
    let header: TokenizerHeader =
        serde_json::from_slice(&bytes).map_err(|error| wrong(error.into()))?;
    let spelling = header.spelling().map_err(wrong)?;
    let (special, generation) = (SpecialTokenFiles::read(folder)?, GenerationConfig::read(folder)?);
    let mut tokenizer =
        guarded(|| Tokenizer::from_bytes(&bytes)).map_err(|error| wrong(error.into()))?;
    header
        .added()
        .try_for_each(|(id, content)| check_id(&tokenizer, content, id))
        .map_err(wrong)?;
    // Texts that are too long are refused elsewhere, and not cut here.
    tokenizer.with_truncation(None).map_err(|error| wrong(error.into()))?;
    tokenizer.with_padding(None);
    special.apply(&mut tokenizer).map_err(wrong)?;
    let spelled = words(&tokenizer).map_err(wrong)?;
    let end_ids = end_ids(&tokenizer, &special, &generation);
    let mut notes = generation.notes;
    notes.extend(end_tokens::note_without(&end_ids));
    let template = chat::template(folder)?;
    let added = tokenizer.get_added_vocabulary();
    let words = spelled.iter().map(|word| match word.as_deref() {
        None => WrittenToken::Hole,
        Some(word) if added.is_special_token(word) => WrittenToken::Hidden(word),
        Some(word) => WrittenToken::Part(word),
    });
    let template_thinks = template.as_ref().is_some_and(ChatTemplate::thinks);
    let all = (0..).zip(&spelled).filter_map(|(id, word)| Some((id, word.as_deref()?)));
    let facts = Arc::new(TextFacts {
        vocab: Vocab::new(words, spelling),
        end_ids,
        sampling: generation.sampling,
        notes,
        has_template: template.is_some(),
        reasoning: ReasoningMarks::find(all, template_thinks),
    });
    Ok(TextModel { tokenizer, template, bos: None, eos: None, control: None, facts })
}

/// The written form of every token by id; `None` where no token has the id.
fn words(tokenizer: &Tokenizer) -> Result<Vec<Option<String>>, TokenizerFileError> {
    let ids = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id.saturating_add(1));
    if ids > IDS_MAX {
        return Err(TokenizerFileError::IdTooLarge { id: ids - 1, ids_max: IDS_MAX });
    }
    Ok((0..ids).map(|id| tokenizer.id_to_token(id)).collect())
}

/// The tokens that end an answer: those of the configuration, the tokenizer's `eos_token` as in
/// vLLM, and special tokens that are known by name.
fn end_ids(
    tokenizer: &Tokenizer,
    special: &SpecialTokenFiles,
    generation: &GenerationConfig,
) -> Vec<Token> {
    let own = special.eos.as_deref().and_then(|eos| tokenizer.token_to_id(eos));
    let added = tokenizer.get_added_tokens_decoder();
    let named = added.iter().filter(|(_, token)| token.special);
    let mut ids = end_tokens::by_name(named.map(|(id, token)| (*id, token.content.as_str())));
    ids.extend(generation.end_ids.iter().copied().chain(own));
    ids.sort_unstable();
    ids.dedup();
    ids
}

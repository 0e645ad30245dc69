//! A model's text out of a Hugging Face folder.
//!
//! tokenizer.json goes through the tokenizers library, the way back through [`Vocab`]. Of valid
//! UTF-8 the text is what transformers decodes; broken bytes become U+FFFD as in
//! `String::from_utf8_lossy`, and `clean_up_tokenization_spaces` is not applied, as in vLLM.

mod chat;
mod decoder;
mod files;
mod generation;
mod special;
#[cfg(test)]
mod tests;

use super::end_tokens;
use super::tokenizer::guarded;
use super::vocab::WrittenToken;
use super::{TextError, TextFacts, TextModel, Vocab};
use binfer_proto::Token;
use decoder::TokenizerHeader;
use files::{ModelFolder, TOKENIZER};
use generation::GenerationConfig;
use special::{SpecialTokenFiles, check_id};
use std::path::Path;
use std::sync::Arc;
use tokenizers::Tokenizer;

/// Token ids are below this: the way back is a table over them.
const IDS_MAX: u32 = 1 << 22;

/// Reads the folder.
pub(super) fn open(dir: &Path) -> Result<TextModel, TextError> {
    let folder = ModelFolder(dir);
    let Some(bytes) = folder.bytes(TOKENIZER)? else {
        let cause = "there is no such file, and nothing else is read for it (no tokenizer.model); \
                     download it";
        return Err(folder.wrong(TOKENIZER, cause));
    };
    let wrong = |cause: String| folder.wrong(TOKENIZER, cause);
    let header: TokenizerHeader =
        serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    let spelling = header.spelling().map_err(wrong)?;
    let (special, generation) = (SpecialTokenFiles::read(folder)?, GenerationConfig::read(folder)?);
    let mut tokenizer = guarded(|| Tokenizer::from_bytes(&bytes)).map_err(wrong)?;
    header
        .added()
        .try_for_each(|(id, content)| check_id(&tokenizer, content, id))
        .map_err(wrong)?;
    // Lengths are checked by whoever asked, not cut.
    tokenizer.with_truncation(None).map_err(|error| wrong(error.to_string()))?;
    tokenizer.with_padding(None);
    special.apply(&mut tokenizer).map_err(wrong)?;
    let words = words(&tokenizer).map_err(wrong)?;
    let end_ids = end_ids(&tokenizer, &special, &generation).map_err(wrong)?;
    let template = chat::template(folder)?;
    let added = tokenizer.get_added_vocabulary();
    let words = words.iter().map(|word| match word.as_deref() {
        None => WrittenToken::Hole,
        Some(word) if added.is_special_token(word) => WrittenToken::Hidden(word),
        Some(word) => WrittenToken::Part(word),
    });
    let facts = Arc::new(TextFacts {
        vocab: Vocab::new(words, spelling),
        end_ids,
        sampling: generation.sampling,
        notes: generation.notes,
        has_template: template.is_some(),
    });
    Ok(TextModel { tokenizer, template, bos: None, control: None, facts })
}

/// The written form of every token by id; `None` for holes.
fn words(tokenizer: &Tokenizer) -> Result<Vec<Option<String>>, String> {
    let ids = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id.saturating_add(1));
    if ids > IDS_MAX {
        return Err(format!("token id {} is not below {IDS_MAX}", ids - 1));
    }
    Ok((0..ids).map(|id| tokenizer.id_to_token(id)).collect())
}

/// Those of the configuration, the tokenizer's own as in vLLM, and special ones known by name.
fn end_ids(
    tokenizer: &Tokenizer,
    special: &SpecialTokenFiles,
    generation: &GenerationConfig,
) -> Result<Vec<Token>, String> {
    let own = special.eos.as_deref().and_then(|eos| tokenizer.token_to_id(eos));
    let added = tokenizer.get_added_tokens_decoder();
    let named = added.iter().filter(|(_, token)| token.special);
    let mut ids = end_tokens::by_name(named.map(|(id, token)| (*id, token.content.as_str())));
    ids.extend(generation.end_ids.iter().copied().chain(own));
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Err("no file names a token that ends an answer (eos_token_id)".into());
    }
    Ok(ids)
}

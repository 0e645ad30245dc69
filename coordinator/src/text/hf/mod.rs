//! A model's text out of a Hugging Face folder.
//!
//! tokenizer.json goes through the tokenizers library, the way back through [`Vocab`]. Of valid
//! UTF-8 the text is what transformers decodes; broken bytes become U+FFFD as in
//! `String::from_utf8_lossy`, and `clean_up_tokenization_spaces` is not applied, as in vLLM.

mod chat;
mod decoder;
mod files;
mod generation;
mod settings;
#[cfg(test)]
mod tests;

use super::tokenizer::guarded;
use super::vocab::Word;
use super::{TextError, TextFacts, TextModel, Vocab};
use binfer_proto::Token;
use decoder::Header;
use files::{Folder, TOKENIZER};
use settings::Settings;
use std::path::Path;
use std::sync::Arc;
use tokenizers::{AddedToken, Tokenizer};

/// Token ids are below this: the way back is a table over them.
const IDS_MAX: u32 = 1 << 22;

/// Reads the folder.
pub(super) fn open(dir: &Path) -> Result<TextModel, TextError> {
    let folder = Folder(dir);
    let Some(bytes) = folder.bytes(TOKENIZER)? else {
        let cause = "there is no such file, and nothing else is read for it (no tokenizer.model); \
                     download it";
        return Err(folder.wrong(TOKENIZER, cause));
    };
    let wrong = |cause: String| folder.wrong(TOKENIZER, cause);
    let header: Header =
        serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    let spelling = header.spelling().map_err(wrong)?;
    let settings = Settings::read(folder)?;
    let mut tokenizer = guarded(|| Tokenizer::from_bytes(&bytes)).map_err(wrong)?;
    header
        .added()
        .try_for_each(|(id, content)| check_id(&tokenizer, content, id))
        .map_err(wrong)?;
    // Lengths are checked by whoever asked, not cut.
    tokenizer.with_truncation(None).map_err(|error| wrong(error.to_string()))?;
    tokenizer.with_padding(None);
    add_tokens(&mut tokenizer, &settings).map_err(wrong)?;
    let words = words(&tokenizer).map_err(wrong)?;
    let (bos, add_special) = first_token(&tokenizer, &settings).map_err(wrong)?;
    let end_ids = end_ids(&tokenizer, &settings).map_err(wrong)?;
    let template = chat::template(folder)?;
    let special = tokenizer.get_added_vocabulary();
    let words = words.iter().map(|word| match word.as_deref() {
        None => Word::Hole,
        Some(word) if special.is_special_token(word) => Word::Hidden(word),
        Some(word) => Word::Part(word),
    });
    let facts = Arc::new(TextFacts {
        vocab: Vocab::new(words, spelling),
        end_ids,
        sampling: settings.generation.sampling,
        notes: settings.generation.notes,
        has_template: template.is_some(),
    });
    Ok(TextModel { tokenizer, template, bos, add_special, facts })
}

/// Adds what only tokenizer_config.json names, and makes special what it calls so.
fn add_tokens(tokenizer: &mut Tokenizer, settings: &Settings) -> Result<(), String> {
    for (id, token) in &settings.added {
        let known = tokenizer.get_added_vocabulary().get_vocab().contains_key(&token.content);
        if !known {
            let added = [token.clone()];
            tokenizer.add_tokens(added).map_err(|error| error.to_string())?;
        }
        check_id(tokenizer, &token.content, *id)?;
    }
    for content in settings.bos.iter().chain(&settings.eos) {
        let added = tokenizer.get_added_vocabulary().get_vocab().contains_key(content);
        if !added && tokenizer.token_to_id(content).is_some() {
            let special = [AddedToken::from(content.clone(), true)];
            tokenizer.add_special_tokens(special).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// The library numbers added tokens anew where ids leave a gap.
fn check_id(tokenizer: &Tokenizer, content: &str, id: Token) -> Result<(), String> {
    let found = tokenizer.token_to_id(content);
    if found == Some(id) {
        return Ok(());
    }
    let found = found.map_or("none".to_owned(), |found| found.to_string());
    Err(format!("the token {content:?} has id {found} here, and {id} where it is added"))
}

/// The written form of every token by id; `None` for holes.
fn words(tokenizer: &Tokenizer) -> Result<Vec<Option<String>>, String> {
    let ids = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id.saturating_add(1));
    if ids > IDS_MAX {
        return Err(format!("token id {} is not below {IDS_MAX}", ids - 1));
    }
    Ok((0..ids).map(|id| tokenizer.id_to_token(id)).collect())
}

/// What a plain prompt begins with, and whether tokenizer.json adds its special tokens to it.
/// `add_bos_token` has the last word.
fn first_token(
    tokenizer: &Tokenizer,
    settings: &Settings,
) -> Result<(Option<Token>, bool), String> {
    let bos = settings.bos.as_deref().and_then(|bos| tokenizer.token_to_id(bos));
    let nothing = guarded(|| tokenizer.encode_fast("", true))?;
    let adds_bos = bos.is_some() && nothing.get_ids().first().copied() == bos;
    match (settings.add_bos, adds_bos) {
        (Some(true), false) if bos.is_none() => {
            Err("add_bos_token is set, but the vocabulary has no bos_token".into())
        }
        (Some(true), false) => Ok((bos, true)),
        (Some(false), true) => Ok((None, false)),
        _ => Ok((None, true)),
    }
}

/// As vLLM has it: those of the configuration, and the tokenizer's own.
fn end_ids(tokenizer: &Tokenizer, settings: &Settings) -> Result<Vec<Token>, String> {
    let own = settings.eos.as_deref().and_then(|eos| tokenizer.token_to_id(eos));
    let mut ids: Vec<Token> = settings.generation.end_ids.iter().copied().chain(own).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Err("no file names a token that ends an answer (eos_token_id)".into());
    }
    Ok(ids)
}

//! The files of a tokenizer as Hugging Face's libraries read them, for a program that tokenises and
//! renders chats itself, as gateways do.
//!
//! They are made of what this server uses and not copied: so they are there for a GGUF file too,
//! and side files of a folder are in them.

use super::error::TextError;
use super::model::TextModel;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::fmt::Display;
use tokenizers::PostProcessorWrapper;
use tokenizers::processors::template::{SpecialToken, TemplateProcessing};

/// The content of the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerFiles {
    /// `tokenizer.json`.
    pub tokenizer: String,
    /// `tokenizer_config.json`, with the chat template and the special tokens that it uses.
    pub config: String,
}

impl TokenizerFiles {
    /// The files of `model`.
    ///
    /// # Errors
    /// When the tokenizer cannot be written down.
    pub(super) fn of(model: &TextModel) -> Result<Self, TextError> {
        let wrong = |error: tokenizers::Error| TextError::Data(error.to_string());
        let tokenizer = match around(model)? {
            None => model.tokenizer.to_string(false),
            Some(processor) => {
                let mut tokenizer = model.tokenizer.clone();
                tokenizer.with_post_processor(Some(processor));
                tokenizer.to_string(false)
            }
        };
        let mut config: Map<String, Value> = Map::new();
        config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
        config.insert("clean_up_tokenization_spaces".into(), json!(false));
        if let Some(template) = &model.template {
            config.insert("chat_template".into(), json!(template.written()));
            let special = template.special_tokens().iter();
            config.extend(special.map(|(name, token)| (name.clone(), json!(token))));
        }
        let config = Value::Object(config).to_string();
        Ok(Self { tokenizer: tokenizer.map_err(wrong)?, config })
    }
}

/// What adds the first and the last token of a plain prompt, where this server adds them itself.
fn around(model: &TextModel) -> Result<Option<PostProcessorWrapper>, TextError> {
    if model.bos.is_none() && model.eos.is_none() {
        return Ok(None);
    }
    let wrong = |error: &dyn Display| TextError::Data(error.to_string());
    let (mut pattern, mut special) = (vec!["$A"], Vec::new());
    for (name, place, token) in [("bos", 0, model.bos), ("eos", 1, model.eos)] {
        let Some(id) = token else { continue };
        pattern.insert(place * pattern.len(), name);
        let written = model.tokenizer.id_to_token(id).unwrap_or_default();
        let token = SpecialToken::new(name.to_owned(), vec![id], vec![written]);
        special.push(token.map_err(|error| wrong(&error))?);
    }
    let template = TemplateProcessing::builder()
        .try_single(pattern)
        .map_err(|error| wrong(&error))?
        .special_tokens(special)
        .build();
    template.map(|template| Some(template.into())).map_err(|error| wrong(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::TextData;
    use crate::text::testing::data;
    use tokenizers::Tokenizer;

    #[test]
    fn whoever_reads_the_files_gets_the_same_tokens_and_the_template() {
        for (add_bos, add_eos) in [(false, false), (true, false), (false, true), (true, true)] {
            let model = TextModel::new(&TextData { add_bos, add_eos, ..data() }).unwrap();
            let files = TokenizerFiles::of(&model).unwrap();
            let read = Tokenizer::from_bytes(files.tokenizer).unwrap();
            for text in ["hello", "<|im_start|>user\nhello é<|im_end|>", ""] {
                let encoded = read.encode_fast(text, true).unwrap();
                assert_eq!(encoded.get_ids(), model.encode_prompt(text).unwrap(), "{text:?}");
                let plain = read.encode_fast(text, false).unwrap();
                assert_eq!(plain.get_ids(), model.encode(text, false).unwrap().get_ids());
            }
            let config: Value = serde_json::from_str(&files.config).unwrap();
            assert_eq!(config["chat_template"], json!(data().chat_template));
            assert_eq!(config["eos_token"], "<|im_end|>");
        }
    }
}

//! What the coordinator knows of a model's text: the vocabulary for decoding, and settings.
//!
//! The text process reads the model's files and sends these facts. The tokenizer and the chat
//! template stay there.

use super::detokenize::Detokenizer;
use super::reasoning::ReasoningMarks;
use super::vocab::Vocab;
use binfer_proto::{Sampling, Token};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// How a model samples whose files do not say it.
pub(crate) const SAMPLING_DEFAULT: Sampling = Sampling { temperature: 1.0, ..Sampling::GREEDY };

/// Everything about a model's text but what encoding needs.
#[derive(Debug, Serialize, Deserialize)]
pub struct TextFacts {
    pub(super) vocab: Vocab,
    pub(super) end_ids: Vec<Token>,
    #[serde(with = "SamplingFields")]
    pub(super) sampling: Sampling,
    /// Lines for people about the files, such as settings that were ignored.
    pub(super) notes: Vec<String>,
    pub(super) has_template: bool,
    /// What says how answers tell reasoning from content.
    pub(super) reasoning: ReasoningMarks,
}

impl TextFacts {
    /// The text of `tokens`, control tokens left out.
    pub fn decode(&self, tokens: &[Token]) -> String {
        let (mut text, mut detokenizer) = (String::new(), Detokenizer::default());
        tokens.iter().for_each(|token| detokenizer.push(&self.vocab, *token, &mut text));
        detokenizer.finish(&mut text);
        text
    }

    /// The bytes that a token adds to a text. For a token that is no part of a text they are its
    /// name.
    pub fn token_bytes(&self, token: Token) -> Cow<'_, [u8]> {
        match self.vocab.bytes(token) {
            [] => self.vocab.name(token).as_bytes().into(),
            bytes => bytes.into(),
        }
    }

    /// The control tokens among `texts`, which no answer's text contains, each with its text.
    pub fn control_tokens(&self, texts: &[String]) -> Vec<(Token, String)> {
        texts.iter().filter_map(|text| Some((self.vocab.hidden(text)?, text.clone()))).collect()
    }

    /// The tokens that end an answer.
    pub fn end_ids(&self) -> &[Token] {
        &self.end_ids
    }

    /// How tokens are sampled where a request does not say it.
    pub fn sampling(&self) -> Sampling {
        self.sampling
    }

    /// Lines for people about the model's files.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether the model has a chat template.
    pub fn has_template(&self) -> bool {
        self.has_template
    }

    /// What says how answers tell reasoning from content.
    pub fn reasoning(&self) -> &ReasoningMarks {
        &self.reasoning
    }
}

/// The fields of [`Sampling`], for serde.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Sampling")]
struct SamplingFields {
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
    repetition_penalty: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
}

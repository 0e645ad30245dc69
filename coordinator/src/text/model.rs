//! A model's tokenizer and chat template, built: text to tokens.

use super::control::{self, ControlText};
use super::data::{TextData, TokenKind, TokenizerFamily};
use super::end_tokens;
use super::error::TextError;
use super::facts::{SAMPLING_DEFAULT, TextFacts};
use super::reasoning::ReasoningMarks;
use super::template::{ChatTemplate, Message};
use super::tokenizer::{ControlTokens, build as build_tokenizer};
use super::vocab::{Spelling, Vocab};
use binfer_proto::Token;
use binfer_shard::gguf::GgufMetadata;
use std::sync::Arc;
use tokenizers::Tokenizer;

/// A model's tokenizer, chat template, and what decoding needs.
#[derive(Debug)]
pub struct TextModel {
    pub(super) tokenizer: Tokenizer,
    pub(super) template: Option<ChatTemplate>,
    /// Begins every plain prompt, in front of what the tokenizer itself adds.
    pub(super) bos: Option<Token>,
    /// Ends every plain prompt, behind what the tokenizer itself adds.
    pub(super) eos: Option<Token>,
    /// Reads control tokens in messages as text.
    pub(super) control: Option<ControlText>,
    pub(super) facts: Arc<TextFacts>,
}

impl TextModel {
    /// A text model whose tokens are numbers, for measurements of models without a vocabulary.
    pub fn numbers(vocab: Token) -> Result<Self, TextError> {
        Self::new(&TextData {
            family: TokenizerFamily::ByteLevel,
            pre: "gpt-2".into(),
            tokens: (0..vocab).map(|id| format!("<{id}>")).collect(),
            kinds: vec![TokenKind::Normal; vocab as usize],
            merges: Vec::new(),
            scores: Vec::new(),
            add_space_prefix: false,
            unknown: None,
            bos: None,
            eos: None,
            more_ends: Vec::new(),
            add_bos: false,
            add_eos: false,
            chat_template: None,
        })
    }

    /// The text model of a GGUF file.
    pub fn from_gguf(metadata: &GgufMetadata) -> Result<Self, TextError> {
        let data = TextData::from_gguf(metadata)?;
        Self::build(&data, end_tokens::note_without(&data.end_ids()))
    }

    /// The text model that `data` describes.
    pub fn new(data: &TextData) -> Result<Self, TextError> {
        Self::build(data, None)
    }

    fn build(data: &TextData, note: Option<String>) -> Result<Self, TextError> {
        let template = data.chat_template.as_deref();
        let template = template.map(|source| ChatTemplate::new(source, data.special_tokens()));
        let template_thinks = template.as_ref().is_some_and(ChatTemplate::thinks);
        let words = (0..).zip(data.tokens.iter().map(String::as_str));
        let drops_first_space = data.add_space_prefix;
        let spelling = match data.family {
            TokenizerFamily::ByteLevel => Spelling::ByteLevel,
            TokenizerFamily::SentencePiece => Spelling::SentencePiece { drops_first_space },
        };
        Ok(Self {
            tokenizer: build_tokenizer(data, ControlTokens::Parsed)?,
            bos: data.bos.filter(|id| data.add_bos && data.has_token(*id)),
            eos: data.eos.filter(|id| data.add_eos && data.has_token(*id)),
            control: None,
            facts: Arc::new(TextFacts {
                vocab: Vocab::new(data.words(), spelling),
                end_ids: data.end_ids(),
                sampling: SAMPLING_DEFAULT,
                notes: note.into_iter().collect(),
                has_template: template.is_some(),
                reasoning: ReasoningMarks::find(words, template_thinks),
            }),
            template,
        })
    }

    /// The tokens of a plain prompt, in which control tokens are recognised.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<Token>, TextError> {
        self.encode_text(text, true)
    }

    /// The tokens of a text. `add_special` puts those around it with which the model's texts begin
    /// or end.
    pub(super) fn encode_text(
        &self,
        text: &str,
        add_special: bool,
    ) -> Result<Vec<Token>, TextError> {
        let tokens = self.encode(text, add_special)?.get_ids().to_vec();
        Ok(if add_special { self.with_ends(tokens) } else { tokens })
    }

    /// Tokens with those around them that the tokenizer itself does not add.
    fn with_ends(&self, tokens: Vec<Token>) -> Vec<Token> {
        self.bos.into_iter().chain(tokens).chain(self.eos).collect()
    }

    /// The tokens of a prompt that asks for the answer to a conversation. The template itself
    /// writes the first and the last token where the model wants them, so none is added.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<Token>, TextError> {
        self.encode_chat_within(messages, false, |_| Ok(()))
    }

    /// The same, if `fits` accepts the length of the rendered text in bytes. `add_special` as for
    /// a prompt.
    pub(super) fn encode_chat_within(
        &self,
        messages: &[Message],
        add_special: bool,
        fits: impl FnOnce(usize) -> Result<(), TextError>,
    ) -> Result<Vec<Token>, TextError> {
        let Some(control) = &self.control else {
            let rendered = self.render_chat(messages)?;
            fits(rendered.len())?;
            return self.encode_text(&rendered, add_special);
        };
        let rendered = self.render_chat(&control.marked(&messages.to_vec())?)?;
        fits(control::unmarked_bytes(&rendered))?;
        let tokens = control.encode(&self.tokenizer, &rendered, add_special);
        let tokens = tokens.map_err(|error| not_encoded(&error))?;
        Ok(if add_special { self.with_ends(tokens) } else { tokens })
    }

    /// Makes control tokens in messages of a chat plain text from now on.
    pub fn split_special_tokens(&mut self) {
        self.control = Some(ControlText::new(&self.tokenizer));
    }

    /// The prompt that asks for the answer to a conversation, as text.
    pub fn render_chat(&self, messages: &[Message]) -> Result<String, TextError> {
        let Some(template) = &self.template else {
            return Err(TextError::Template("the model has no chat template".into()));
        };
        template.render(messages)
    }

    /// Everything but what encoding needs.
    pub fn facts(&self) -> &Arc<TextFacts> {
        &self.facts
    }

    pub(super) fn encode(
        &self,
        text: &str,
        add_special: bool,
    ) -> Result<tokenizers::Encoding, TextError> {
        self.tokenizer.encode_fast(text, add_special).map_err(|error| not_encoded(&error))
    }
}

fn not_encoded(error: &tokenizers::Error) -> TextError {
    TextError::Data(format!("a prompt cannot be encoded: {error}"))
}

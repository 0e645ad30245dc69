//! Text to tokens and back: tokenizer, chat template, detokeniser, stop strings.
//!
//! [`TextProcess`](process::TextProcess) serves the fronts, before a request is submitted: it has
//! another process use a [`TextModel`]. [`TextStage`] serves the serve loop, after a step.
//! Deliberately absent: any download, and any tokenizer that would have to be guessed.

mod control;
#[cfg(test)]
mod corpus;
mod data;
mod detokenize;
mod end_tokens;
mod facts;
mod hf;
mod pre_tokenizer;
mod pre_tokenizer_kinds;
pub mod process;
#[cfg(test)]
mod reference;
mod sentence_piece;
mod stage;
mod stop;
mod template;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod token_bytes_max;
mod tokenizer;
mod vocab;

pub use data::{TextData, TokenKind, TokenizerFamily};
pub use detokenize::Detokenizer;
pub use facts::TextFacts;
pub use stage::{Pushed, TextStage};
pub use stop::StopMatcher;
pub use template::{ChatTemplate, Message, SpecialTokens};
pub use tokenizer::{ControlTokens, build as build_tokenizer};
pub use vocab::{Spelling, Vocab};

use binfer_proto::{Sampling, Token};
use binfer_shard::Checkpoint;
use binfer_shard::gguf::GgufMetadata;
use control::ControlText;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokenizers::Tokenizer;

/// What can be wrong with a model's text files, or a conversation.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The file's metadata are not as they should be.
    #[error(transparent)]
    Metadata(#[from] binfer_shard::Error),
    /// A file of the model's folder is not as it should be.
    #[error("{}: {cause}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A kind that this version does not have.
    #[error("{key} {found:?} is not supported; supported: {supported}")]
    Unsupported {
        /// The metadata key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What would be fine.
        supported: String,
    },
    /// The tokenizer's data contradict themselves.
    #[error("tokenizer: {0}")]
    Data(String),
    /// The chat template is wrong, or refuses a conversation.
    #[error("{0}")]
    Template(String),
    /// A text that is longer than any that fits.
    #[error("{0}")]
    TooLong(String),
    /// What the text process said of the model's files or of a text.
    #[error("{0}")]
    Told(String),
    /// The text process was ended over a text, or at its start.
    #[error("{0}")]
    Lost(String),
    /// The text process ended too often to be there now.
    #[error(
        "the model's tokenizer ended too often and is left alone for a minute; the last time {0}"
    )]
    Resting(String),
}

/// Everything about text that a model brings.
#[derive(Debug)]
pub struct TextModel {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// Begins every plain prompt, beside what the tokenizer adds by itself.
    bos: Option<Token>,
    /// Control tokens in messages are text.
    control: Option<ControlText>,
    facts: Arc<TextFacts>,
}

/// What a model draws with whose files say nothing.
pub(crate) const SAMPLING_DEFAULT: Sampling = Sampling { temperature: 1.0, ..Sampling::GREEDY };

impl TextModel {
    /// Out of an opened model.
    pub fn from_source(source: &Checkpoint) -> Result<Self, TextError> {
        match source.gguf() {
            Some(gguf) => Self::from_gguf(&gguf.metadata),
            None => Self::from_folder(source.path()),
        }
    }

    /// A vocabulary of numbers, for measurements of models that bring none.
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
            chat_template: None,
        })
    }

    /// Out of a GGUF file's metadata.
    pub fn from_gguf(metadata: &GgufMetadata) -> Result<Self, TextError> {
        Self::new(&TextData::from_gguf(metadata)?)
    }

    /// Out of a Hugging Face folder: tokenizer.json and what stands beside it.
    pub fn from_folder(dir: &Path) -> Result<Self, TextError> {
        hf::open(dir)
    }

    /// Out of `data`.
    pub fn new(data: &TextData) -> Result<Self, TextError> {
        let template = data.chat_template.as_deref();
        let drops_first_space = data.add_space_prefix;
        let spelling = match data.family {
            TokenizerFamily::ByteLevel => Spelling::ByteLevel,
            TokenizerFamily::SentencePiece => Spelling::SentencePiece { drops_first_space },
        };
        Ok(Self {
            tokenizer: build_tokenizer(data, ControlTokens::Parsed)?,
            template: template.map(|source| ChatTemplate::new(source, data.special_tokens())),
            bos: data.bos.filter(|_| data.add_bos),
            control: None,
            facts: Arc::new(TextFacts {
                vocab: Vocab::new(data.words(), spelling),
                end_ids: data.end_ids(),
                sampling: SAMPLING_DEFAULT,
                notes: Vec::new(),
                has_template: template.is_some(),
            }),
        })
    }

    /// Tokens of a plain prompt; control tokens in it are recognised.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<Token>, TextError> {
        let mut tokens: Vec<Token> = self.bos.into_iter().collect();
        tokens.extend_from_slice(self.encode(text, true)?.get_ids());
        Ok(tokens)
    }

    /// Tokens that ask for the answer to a conversation. The template writes the first token
    /// itself where the model wants one, so none is added.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<Token>, TextError> {
        self.encode_chat_within(messages, |_| Ok(()))
    }

    /// The same, if `fits` has nothing against so many bytes of rendered text.
    fn encode_chat_within(
        &self,
        messages: &[Message],
        fits: impl FnOnce(usize) -> Result<(), TextError>,
    ) -> Result<Vec<Token>, TextError> {
        let Some(control) = &self.control else {
            let rendered = self.render_chat(messages)?;
            fits(rendered.len())?;
            return Ok(self.encode(&rendered, false)?.get_ids().to_vec());
        };
        let rendered = self.render_chat(&control.marked(&messages.to_vec())?)?;
        fits(control::unmarked_bytes(&rendered))?;
        control.encode(&self.tokenizer, &rendered).map_err(|error| not_encoded(&error))
    }

    /// From now on, control tokens in messages of a chat are text.
    pub fn split_special_tokens(&mut self) {
        self.control = Some(ControlText::new(&self.tokenizer));
    }

    /// The text that asks for the answer to a conversation.
    pub fn render_chat(&self, messages: &[Message]) -> Result<String, TextError> {
        let Some(template) = &self.template else {
            return Err(TextError::Template("the model has no chat template".into()));
        };
        template.render(messages)
    }

    /// Everything but the way from text to tokens.
    pub fn facts(&self) -> &Arc<TextFacts> {
        &self.facts
    }

    fn encode(&self, text: &str, add_special: bool) -> Result<tokenizers::Encoding, TextError> {
        self.tokenizer.encode_fast(text, add_special).map_err(|error| not_encoded(&error))
    }
}

fn not_encoded(error: &tokenizers::Error) -> TextError {
    TextError::Data(format!("a prompt cannot be encoded: {error}"))
}

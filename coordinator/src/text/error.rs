//! What can be wrong with a model's text files, with a conversation, or with the text process.

use super::guarded::TokenizerError;
use std::path::PathBuf;

/// Why a text cannot become tokens, or a model's text files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A GGUF file's metadata are not as they should be.
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
    /// The file asks for a kind of tokenizer that is not supported.
    #[error("{key} {found:?} is not supported; supported: {supported}")]
    Unsupported {
        /// The metadata key.
        key: &'static str,
        /// The value of that key.
        found: String,
        /// The values that are supported.
        supported: String,
    },
    /// The library cannot build a tokenizer from the file's data.
    #[error("tokenizer: {0}")]
    Tokenizer(#[from] TokenizerError),
    /// The tokenizer's data contradict themselves.
    #[error("tokenizer: {0}")]
    Data(String),
    /// The chat template is wrong, or refuses the conversation.
    #[error("{0}")]
    Template(String),
    /// The text is longer than any that fits the context.
    #[error("{0}")]
    TooLong(String),
    /// The text process refused the model's files or a text, for the reason that it reports.
    #[error("{0}")]
    Told(String),
    /// The text process ended over a text, or during its start.
    #[error("{0}")]
    Lost(String),
    /// The text process ended too often, and is not started again for a while.
    #[error(
        "the model's tokenizer ended too often and is left alone for a minute; the last time {0}"
    )]
    Resting(String),
}

//! Why a tokenizer.json, or what other files add to it, cannot be used.

use crate::text::guarded::TokenizerError;
use binfer_proto::Token;

/// What is wrong with a folder's tokenizer.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenizerFileError {
    /// The file is not the JSON of a tokenizer.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The model has a setting that would tokenise in another way.
    #[error("model.{0} is not supported")]
    ModelField(&'static str),
    /// The file does not say how tokens become text.
    #[error("a tokenizer without a decoder is not supported")]
    NoDecoder,
    /// The file's decoder is another one than those that are supported.
    #[error(
        "decoder {0} is not supported; supported: ByteLevel, or Replace \"\u{2581}\" \" \", \
         ByteFallback, Fuse, Strip \" \" 1 0"
    )]
    Decoder(String),
    /// The library gives an added token another id than the file.
    #[error(
        "the token {content:?} has id {} here, and {listed} where it is added",
        found.map_or_else(|| "none".to_owned(), |found| found.to_string())
    )]
    OtherId {
        /// The written token.
        content: String,
        /// Its id in the tokenizer.
        found: Option<Token>,
        /// Its id in the file that adds it.
        listed: Token,
    },
    /// The table from ids to bytes would be too large.
    #[error("token id {id} is not below {ids_max}")]
    IdTooLarge {
        /// The largest id.
        id: Token,
        /// Ids must be below this.
        ids_max: Token,
    },
    /// The library refuses the tokenizer, or panicked over it.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

impl From<tokenizers::Error> for TokenizerFileError {
    fn from(error: tokenizers::Error) -> Self {
        Self::Tokenizer(TokenizerError::Refused(error))
    }
}

//! What a request says of its answer's text, and why a text ended.

use binfer_proto::Token;

/// What a request says of its answer's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AskedText {
    /// Texts at which the answer ends.
    pub stop: Vec<String>,
    /// What ended the answer is part of its text.
    pub include_stop: bool,
    /// Stop strings do not end the answer with one of its first tokens, of which these are so many.
    pub min_tokens: u32,
    /// Control tokens are part of the text, by their names.
    pub show_special: bool,
    /// The end tokens that the request itself named, with what it called them.
    pub end_names: Vec<(Token, StopReason)>,
}

/// What ended an answer, where the request named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A stop string.
    Text(String),
    /// A stop token.
    Token(Token),
}

/// What the text of an answer says of its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextEnd {
    /// How many of the answer's tokens by now were reasoning.
    pub reasoning_tokens: u32,
    /// The token that ended it, if one did. It is counted and not delivered.
    pub end_token: Option<Token>,
    /// What ended it, if the request named it.
    pub stop_reason: Option<StopReason>,
}

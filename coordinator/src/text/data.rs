//! What a model's files say about text, before anything is built from it.

use super::end_tokens;
use super::pre_tokenizer::PreTokenizerKind;
use super::vocab::WrittenToken;
use super::{SpecialTokens, TextError};
use binfer_proto::Token;
use binfer_shard::gguf::GgufMetadata;

/// What a tokenizer and a chat template are built from.
#[derive(Clone, Debug)]
pub struct TextData {
    /// Family of tokenizers, GGUF's `tokenizer.ggml.model`.
    pub family: TokenizerFamily,
    /// How text is split before merging, GGUF's `tokenizer.ggml.pre`.
    pub pre: String,
    /// The vocabulary in its written form, by id.
    pub tokens: Vec<String>,
    /// What each token is.
    pub kinds: Vec<TokenKind>,
    /// Byte-level: pairs to merge, `"left right"`, the first ones first.
    pub merges: Vec<String>,
    /// SentencePiece: scores by id, the better ones merged first.
    pub scores: Vec<f64>,
    /// SentencePiece: a text is encoded with one more space before it.
    pub add_space_prefix: bool,
    /// SentencePiece: stands for what neither pieces nor bytes spell.
    pub unknown: Option<Token>,
    /// Begins a sequence.
    pub bos: Option<Token>,
    /// Ends an answer.
    pub eos: Option<Token>,
    /// Others that end one, by keys of their own.
    pub more_ends: Vec<Token>,
    /// Whether a plain prompt begins with `bos`.
    pub add_bos: bool,
    /// Jinja source of the chat template.
    pub chat_template: Option<String>,
}

/// A family of tokenizers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerFamily {
    /// "gpt2".
    ByteLevel,
    /// "llama".
    SentencePiece,
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text.
    Normal,
    /// Steers the model; recognised in prompts, not part of an answer's text.
    Control,
    /// Added by the model's makers: recognised whole in prompts, part of an answer's text.
    Added,
}

impl TextData {
    /// Reads `tokenizer.*` of a GGUF file.
    pub fn from_gguf(metadata: &GgufMetadata) -> Result<Self, TextError> {
        let string = |key| metadata.string(key).map(|found| found.map(str::to_owned));
        let strings = |key| metadata.strings(key);
        let (tokens, kinds) = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type");
        let family = TokenizerFamily::named(metadata)?;
        let words = metadata.required(tokens, strings(tokens))?.to_vec();
        let mut kinds = match metadata.integers(kinds)? {
            None => vec![TokenKind::Normal; words.len()],
            Some(numbers) => numbers.into_iter().map(TokenKind::from_gguf).collect(),
        };
        if kinds.len() != words.len() {
            let (kinds, words) = (kinds.len(), words.len());
            return Err(TextError::Data(format!(
                "tokenizer.ggml.token_type has {kinds} entries for {words} tokens"
            )));
        }
        // Whatever such a token's type, it steers the model.
        for end in end_tokens::by_name(numbered(&words)) {
            kinds[end as usize] = TokenKind::Control;
        }
        let pre = string("tokenizer.ggml.pre")?.unwrap_or_else(|| "default".into());
        let add_bos = match (metadata.bool("tokenizer.ggml.add_bos_token")?, family) {
            (Some(add_bos), _) => add_bos,
            (None, TokenizerFamily::SentencePiece) => true,
            (None, TokenizerFamily::ByteLevel) => PreTokenizerKind::named(&pre)?.adds_bos,
        };
        // The three that SentencePiece has where a file does not say it.
        let id = |key: &str, otherwise: Token| {
            let otherwise = (family == TokenizerFamily::SentencePiece).then_some(otherwise);
            metadata.u32(key).map(|id| id.or(otherwise))
        };
        let mut more_ends = Vec::new();
        for key in END_KEYS {
            more_ends.extend(metadata.u32(key)?);
        }
        Ok(Self {
            family,
            pre,
            tokens: words,
            kinds,
            merges: strings("tokenizer.ggml.merges")?.unwrap_or_default().to_vec(),
            scores: metadata.floats("tokenizer.ggml.scores")?.unwrap_or_default().to_vec(),
            add_space_prefix: metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true),
            unknown: id("tokenizer.ggml.unknown_token_id", 0)?,
            bos: id("tokenizer.ggml.bos_token_id", 1)?,
            eos: id("tokenizer.ggml.eos_token_id", 2)?,
            more_ends,
            add_bos,
            chat_template: string("tokenizer.chat_template")?,
        })
    }

    /// The written form of a token; empty if there is none.
    pub(super) fn written(&self, token: Option<Token>) -> &str {
        let index = token.and_then(|token| usize::try_from(token).ok());
        index.and_then(|index| self.tokens.get(index)).map_or("", String::as_str)
    }

    /// Tokens by the names that chat templates have for them.
    pub(super) fn special_tokens(&self) -> SpecialTokens {
        let named = [("bos_token", self.bos), ("eos_token", self.eos), ("unk_token", self.unknown)];
        let named = named.into_iter().filter(|(_, token)| token.is_some());
        named.map(|(name, token)| (name.to_owned(), self.written(token).to_owned())).collect()
    }

    /// The written tokens by id.
    pub(super) fn words(&self) -> impl Iterator<Item = WrittenToken<'_>> {
        self.tokens.iter().zip(&self.kinds).map(|(word, kind)| match kind {
            TokenKind::Control => WrittenToken::Hidden(word),
            TokenKind::Normal | TokenKind::Added => WrittenToken::Part(word),
        })
    }

    /// Tokens that end an answer: those that the file names, and those known by their names.
    pub fn end_ids(&self) -> Vec<Token> {
        let mut ids = end_tokens::by_name(numbered(&self.tokens));
        ids.extend(self.eos.iter().chain(&self.more_ends));
        ids.retain(|id| (*id as usize) < self.tokens.len());
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// Keys of tokens that end an answer, beside the one that everybody writes: of a turn, of a message,
/// and those with which code models go on to what nobody asked for.
const END_KEYS: [&str; 5] = [
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.fim_pad_token_id",
    "tokenizer.ggml.fim_rep_token_id",
    "tokenizer.ggml.fim_sep_token_id",
];

fn numbered(words: &[String]) -> impl Iterator<Item = (Token, &str)> {
    (0..).zip(words.iter().map(String::as_str))
}

impl TokenizerFamily {
    fn named(metadata: &GgufMetadata) -> Result<Self, TextError> {
        let key = "tokenizer.ggml.model";
        match metadata.required(key, metadata.string(key))? {
            "gpt2" => Ok(Self::ByteLevel),
            "llama" => Ok(Self::SentencePiece),
            other => {
                let found = other.to_owned();
                Err(TextError::Unsupported { key, found, supported: "gpt2, llama".into() })
            }
        }
    }
}

impl TokenKind {
    pub(super) fn from_gguf(number: i64) -> Self {
        match number {
            // 2 is the unknown token.
            2 | 3 => Self::Control,
            4 => Self::Added,
            _ => Self::Normal,
        }
    }
}

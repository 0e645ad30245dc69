//! What a GGUF file says about text, before anything is built from it.

use super::end_tokens;
use super::error::TextError;
use super::pre_tokenizer::PreTokenizerKind;
use super::template::SpecialTokens;
use super::vocab::WrittenToken;
use binfer_proto::Token;
use binfer_shard::gguf::GgufMetadata;

/// What a tokenizer and a chat template are built from.
#[derive(Clone, Debug)]
pub struct TextData {
    /// The family of tokenizers (`tokenizer.ggml.model`).
    pub family: TokenizerFamily,
    /// The kind of pre-tokenizer, which splits text before it is merged (`tokenizer.ggml.pre`).
    pub pre: String,
    /// The written form of every token by id.
    pub tokens: Vec<String>,
    /// The kind of every token by id.
    pub kinds: Vec<TokenKind>,
    /// The pairs that a byte-level tokenizer merges, as `"left right"` in the order of merging.
    pub merges: Vec<String>,
    /// The score of every SentencePiece token by id; better ones are merged first.
    pub scores: Vec<f64>,
    /// Whether a SentencePiece tokenizer puts a space in front of a text.
    pub add_space_prefix: bool,
    /// The SentencePiece token for what neither pieces nor bytes spell.
    pub unknown: Option<Token>,
    /// The token that begins a sequence.
    pub bos: Option<Token>,
    /// The token that ends an answer.
    pub eos: Option<Token>,
    /// Other tokens that end an answer, which have keys of their own.
    pub more_ends: Vec<Token>,
    /// Whether a plain prompt begins with `bos`.
    pub add_bos: bool,
    /// Whether a plain prompt ends with `eos`.
    pub add_eos: bool,
    /// The Jinja source of the chat template.
    pub chat_template: Option<String>,
}

/// A family of tokenizers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerFamily {
    /// Bytes are merged (`gpt2`).
    ByteLevel,
    /// SentencePiece (`llama`).
    SentencePiece,
}

/// The kinds of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text.
    Normal,
    /// A token that steers the model. It is recognised in prompts and is not part of an answer's
    /// text.
    Control,
    /// A token that was added to the vocabulary. It is recognised whole in prompts and is part of
    /// an answer's text.
    Added,
}

impl TextData {
    /// Reads the keys `tokenizer.*` of a GGUF file.
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
        // A token that ends an answer steers the model, whatever type the file gives it.
        for end in end_tokens::by_name(numbered(&words)) {
            kinds[end as usize] = TokenKind::Control;
        }
        let pre = string("tokenizer.ggml.pre")?.unwrap_or_else(|| "default".into());
        let add_bos = match (metadata.bool("tokenizer.ggml.add_bos_token")?, family) {
            (Some(add_bos), _) => add_bos,
            (None, TokenizerFamily::SentencePiece) => true,
            (None, TokenizerFamily::ByteLevel) => PreTokenizerKind::named(&pre)?.adds_bos,
        };
        // SentencePiece has these three ids where the file does not say others.
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
            add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
            chat_template: string("tokenizer.chat_template")?,
        })
    }

    /// Whether the vocabulary has this id.
    pub(super) fn has_token(&self, id: Token) -> bool {
        (id as usize) < self.tokens.len()
    }

    /// The written form of a token; empty if there is none.
    pub(super) fn written(&self, token: Option<Token>) -> &str {
        let index = token.and_then(|token| usize::try_from(token).ok());
        index.and_then(|index| self.tokens.get(index)).map_or("", String::as_str)
    }

    /// The special tokens by the names that chat templates use.
    pub(super) fn special_tokens(&self) -> SpecialTokens {
        let named = [("bos_token", self.bos), ("eos_token", self.eos), ("unk_token", self.unknown)];
        let named = named.into_iter().filter(|(_, token)| token.is_some());
        named.map(|(name, token)| (name.to_owned(), self.written(token).to_owned())).collect()
    }

    /// The written form of every token by id, for decoding.
    pub(super) fn words(&self) -> impl Iterator<Item = WrittenToken<'_>> {
        self.tokens.iter().zip(&self.kinds).map(|(word, kind)| match kind {
            TokenKind::Control => WrittenToken::Hidden(word),
            TokenKind::Normal | TokenKind::Added => WrittenToken::Part(word),
        })
    }

    /// The tokens that end an answer: those that the file names, and those that are known by name.
    pub fn end_ids(&self) -> Vec<Token> {
        let mut ids = end_tokens::by_name(numbered(&self.tokens));
        ids.extend(self.eos.iter().chain(&self.more_ends));
        ids.retain(|id| self.has_token(*id));
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// Keys of tokens that end an answer beside `eos_token_id`: the end of a turn, the end of a
/// message, and the tokens with which code models go on to another file.
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

//! What a model's files say about text, before anything is built from it.

use super::pre::Pre;
use super::vocab::Word;
use super::{SpecialTokens, TextError};
use binfer_proto::Token;
use binfer_shard::gguf::Metadata;

/// What a tokenizer and a chat template are built from.
#[derive(Clone, Debug)]
pub struct TextData {
    /// Family of tokenizers, GGUF's `tokenizer.ggml.model`.
    pub family: Family,
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
    /// Whether a plain prompt begins with `bos`.
    pub add_bos: bool,
    /// Jinja source of the chat template.
    pub chat_template: Option<String>,
}

/// A family of tokenizers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
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
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, TextError> {
        let string = |key| metadata.string(key).map(|found| found.map(str::to_owned));
        let strings = |key| metadata.strings(key);
        let (tokens, kinds) = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type");
        let family = Family::named(metadata)?;
        let words = metadata.required(tokens, strings(tokens))?.to_vec();
        let kinds = match metadata.integers(kinds)? {
            None => vec![TokenKind::Normal; words.len()],
            Some(numbers) => numbers.into_iter().map(TokenKind::from_gguf).collect(),
        };
        if kinds.len() != words.len() {
            let (kinds, words) = (kinds.len(), words.len());
            return Err(TextError::Data(format!(
                "tokenizer.ggml.token_type has {kinds} entries for {words} tokens"
            )));
        }
        let pre = string("tokenizer.ggml.pre")?.unwrap_or_else(|| "default".into());
        let add_bos = match (metadata.bool("tokenizer.ggml.add_bos_token")?, family) {
            (Some(add_bos), _) => add_bos,
            (None, Family::SentencePiece) => true,
            (None, Family::ByteLevel) => Pre::named(&pre)?.adds_bos(),
        };
        let unknown = metadata.u32("tokenizer.ggml.unknown_token_id")?;
        Ok(Self {
            family,
            pre,
            tokens: words,
            kinds,
            merges: strings("tokenizer.ggml.merges")?.unwrap_or_default().to_vec(),
            scores: metadata.floats("tokenizer.ggml.scores")?.unwrap_or_default().to_vec(),
            add_space_prefix: metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true),
            unknown: unknown.or((family == Family::SentencePiece).then_some(0)),
            bos: metadata.u32("tokenizer.ggml.bos_token_id")?,
            eos: metadata.u32("tokenizer.ggml.eos_token_id")?,
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
    pub(super) fn words(&self) -> impl Iterator<Item = Word<'_>> {
        self.tokens.iter().zip(&self.kinds).map(|(word, kind)| match kind {
            TokenKind::Control => Word::Hidden(word),
            TokenKind::Normal | TokenKind::Added => Word::Part(word),
        })
    }

    /// Tokens that end an answer: the one that the file names, and those known by their names.
    pub fn end_ids(&self) -> Vec<Token> {
        let by_name = self.tokens.iter().zip(&self.kinds).enumerate();
        let by_name = by_name
            .filter(|(_, (word, kind))| {
                **kind == TokenKind::Control && END_NAMES.contains(&word.as_str())
            })
            .filter_map(|(index, _)| Token::try_from(index).ok());
        let mut ids: Vec<Token> = self.eos.into_iter().chain(by_name).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// Control tokens that end an answer in any model, as llama.cpp has them.
const END_NAMES: [&str; 6] =
    ["<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<EOT>"];

impl Family {
    fn named(metadata: &Metadata) -> Result<Self, TextError> {
        let key = "tokenizer.ggml.model";
        match metadata.required(key, metadata.string(key))? {
            "gpt2" => Ok(Self::ByteLevel),
            "llama" => Ok(Self::SentencePiece),
            other => {
                let found = other.to_owned();
                Err(TextError::Unsupported { key, found, supported: "gpt2, llama" })
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

//! What a model's files say about text, before anything is built from it.

use super::TextError;
use binfer_proto::Token;
use binfer_shard::gguf::Metadata;

/// What a tokenizer and a chat template are built from.
#[derive(Clone, Debug)]
pub struct TextData {
    /// Family of tokenizers, GGUF's `tokenizer.ggml.model`.
    pub family: String,
    /// How text is split before merging, GGUF's `tokenizer.ggml.pre`.
    pub pre: String,
    /// The vocabulary in its written form, by id.
    pub tokens: Vec<String>,
    /// What each token is.
    pub kinds: Vec<TokenKind>,
    /// Pairs to merge, `"left right"`, the first ones first.
    pub merges: Vec<String>,
    /// Begins a sequence.
    pub bos: Option<Token>,
    /// Ends an answer.
    pub eos: Option<Token>,
    /// Whether a plain prompt begins with `bos`.
    pub add_bos: bool,
    /// Jinja source of the chat template.
    pub chat_template: Option<String>,
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
        let family = "tokenizer.ggml.model";
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
        Ok(Self {
            family: metadata.required(family, string(family))?,
            pre: string("tokenizer.ggml.pre")?.unwrap_or_else(|| "default".into()),
            tokens: words,
            kinds,
            merges: strings("tokenizer.ggml.merges")?.unwrap_or_default().to_vec(),
            bos: metadata.u32("tokenizer.ggml.bos_token_id")?,
            eos: metadata.u32("tokenizer.ggml.eos_token_id")?,
            add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(false),
            chat_template: string("tokenizer.chat_template")?,
        })
    }

    /// The written form of a token; empty if there is none.
    pub(super) fn written(&self, token: Option<Token>) -> &str {
        let index = token.and_then(|token| usize::try_from(token).ok());
        index.and_then(|index| self.tokens.get(index)).map_or("", String::as_str)
    }

    /// The written tokens by id, `None` for those that are not part of a text.
    pub(super) fn visible(&self) -> impl Iterator<Item = Option<&str>> {
        let all = self.tokens.iter().zip(&self.kinds);
        all.map(|(word, kind)| (*kind != TokenKind::Control).then_some(word.as_str()))
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

impl TokenKind {
    fn from_gguf(number: i64) -> Self {
        match number {
            3 => Self::Control,
            4 => Self::Added,
            _ => Self::Normal,
        }
    }
}

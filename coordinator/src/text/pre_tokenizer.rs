//! How a GGUF file's byte-level tokenizer splits text before merging, by `tokenizer.ggml.pre`.
//!
//! The names are llama.cpp's. The patterns are those of the models' own tokenizer.json where they
//! are known, else those of llama.cpp, which are equal but for letters that nobody writes. Each is
//! compared with what the tokenizers library of Python cuts. Deliberately absent: kinds of models
//! that are not served and need more than patterns (`gemma4`, `kimi-k2`, `afmoe`, encoders).

use super::TextError;
use super::pre_tokenizer_kinds::KINDS;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

/// A way to split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PreTokenizerKind {
    /// Done in order, each on the pieces of the one before.
    pub(super) steps: &'static [SplitStep],
    /// A piece that is a token as it stands is not merged from its bytes.
    pub(super) whole_pieces_first: bool,
    /// Whether a plain prompt begins with `bos` where the file does not say it.
    pub(super) adds_bos: bool,
    /// Text is composed first (NFC).
    pub(super) composes: bool,
}

/// A step of splitting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SplitStep {
    /// Each match is a piece, and what is between them.
    Pattern(&'static str),
    /// The pattern of cl100k and its heirs, with this one for numbers.
    Words(&'static str),
    /// Each digit is a piece.
    Digits,
    /// GPT-2's pattern.
    Gpt2,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

impl PreTokenizerKind {
    pub(super) fn named(name: &str) -> Result<Self, TextError> {
        let found = KINDS.iter().find(|(names, _)| names.contains(&name));
        found.map(|(_, pre)| *pre).ok_or_else(|| TextError::Unsupported {
            key: "tokenizer.ggml.pre",
            found: name.to_owned(),
            supported: Self::names().collect::<Vec<_>>().join(", "),
        })
    }

    /// All names.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        KINDS.iter().flat_map(|(names, _)| names.iter().copied())
    }

    pub(super) fn normalizer(self) -> Option<NormalizerWrapper> {
        self.composes.then(|| NFC.into())
    }

    pub(super) fn splitter(self) -> Result<PreTokenizerWrapper, TextError> {
        let mut steps = Vec::new();
        let (last, before) = match self.steps.split_last() {
            // The library has that pattern built in.
            Some((SplitStep::Gpt2, before)) => (true, before),
            _ => (false, self.steps),
        };
        for step in before {
            steps.push(step.splitter()?);
        }
        steps.push(ByteLevel::new(false, true, last).into());
        Ok(Sequence::new(steps).into())
    }
}

impl SplitStep {
    fn splitter(self) -> Result<PreTokenizerWrapper, TextError> {
        let pattern = match self {
            Self::Digits => return Ok(Digits::new(true).into()),
            Self::Pattern(pattern) => pattern.to_owned(),
            Self::Gpt2 => GPT2.to_owned(),
            Self::Words(numbers) => format!(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            ),
        };
        let isolated = SplitDelimiterBehavior::Isolated;
        let split = Split::new(SplitPattern::Regex(pattern), isolated, false);
        Ok(split.map_err(|error| TextError::Data(error.to_string()))?.into())
    }
}

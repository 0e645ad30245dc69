//! How the byte-level tokenizer of a GGUF file splits text before it merges.

use super::error::TextError;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

/// A kind of pre-tokenizer: how text is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PreTokenizerKind {
    /// The steps, each of which splits the pieces of the one before.
    pub(super) steps: &'static [SplitStep],
    /// A piece that is a token is taken as it is, and not merged from its bytes.
    pub(super) whole_pieces_first: bool,
    /// A plain prompt begins with `bos` where the file does not say it.
    pub(super) adds_bos: bool,
    /// Text is normalised to NFC first.
    pub(super) composes: bool,
}

/// A step of splitting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SplitStep {
    /// Each match of the pattern is a piece, and so is the text between two matches.
    Pattern(&'static str),
    /// The pattern of cl100k, with this pattern for numbers in it.
    Words(&'static str),
    /// Each digit is a piece.
    Digits,
    /// The pattern of GPT-2.
    Gpt2,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

impl PreTokenizerKind {
    pub(super) fn normalizer(self) -> Option<NormalizerWrapper> {
        self.composes.then(|| NFC.into())
    }

    pub(super) fn splitter(self) -> Result<PreTokenizerWrapper, TextError> {
        let mut steps = Vec::new();
        let (last, before) = match self.steps.split_last() {
            // The library has the pattern of GPT-2 built in.
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

//! How a GGUF file's byte-level tokenizer splits text before merging, by `tokenizer.ggml.pre`.
//!
//! The names are llama.cpp's, the patterns those of the models' own tokenizer.json. Only what was
//! compared with the tokenizers library of Python is here; other names are refused.

use super::TextError;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

/// A way to split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pre {
    /// GPT-2's pattern.
    Gpt2,
    /// Each digit alone, then GPT-2's pattern.
    Smollm,
    /// Llama 3: up to three digits together.
    Llama3,
    /// Qwen 2 and 3: each digit alone; text is composed first (NFC).
    Qwen2,
}

const SUPPORTED: &str = "gpt-2, smollm, llama-bpe, qwen2";

impl Pre {
    pub(super) fn named(name: &str) -> Result<Self, TextError> {
        match name {
            "gpt-2" => Ok(Self::Gpt2),
            "smollm" => Ok(Self::Smollm),
            "llama-bpe" | "llama3" | "llama-v3" => Ok(Self::Llama3),
            "qwen2" => Ok(Self::Qwen2),
            other => Err(TextError::Unsupported {
                key: "tokenizer.ggml.pre",
                found: other.to_owned(),
                supported: SUPPORTED,
            }),
        }
    }

    /// A piece that is a token as it stands is not merged from its bytes.
    pub(super) fn whole_pieces_first(self) -> bool {
        self == Self::Llama3
    }

    /// Whether a plain prompt begins with `bos` where the file does not say it.
    pub(super) fn adds_bos(self) -> bool {
        self == Self::Llama3
    }

    pub(super) fn normalizer(self) -> Option<NormalizerWrapper> {
        (self == Self::Qwen2).then(|| NFC.into())
    }

    pub(super) fn splitter(self) -> Result<PreTokenizerWrapper, TextError> {
        let gpt2 = ByteLevel::new(false, true, true);
        let digits = match self {
            Self::Gpt2 => return Ok(gpt2.into()),
            Self::Smollm => {
                return Ok(Sequence::new(vec![Digits::new(true).into(), gpt2.into()]).into());
            }
            Self::Llama3 => r"\p{N}{1,3}",
            Self::Qwen2 => r"\p{N}",
        };
        let pattern = format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        );
        let isolated = SplitDelimiterBehavior::Isolated;
        let split = Split::new(SplitPattern::Regex(pattern), isolated, false)
            .map_err(|error| TextError::Data(error.to_string()))?;
        Ok(Sequence::new(vec![split.into(), ByteLevel::new(false, true, false).into()]).into())
    }
}

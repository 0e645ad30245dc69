//! Which format a model's answers have: the names of `--reasoning-parser`, and what `auto` finds.

use super::harmony::HarmonyTokens;
use super::think::{ThinkFormat, ThinkTokens};
use binfer_proto::Token;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The values of `--reasoning-parser`, by the names that vLLM has for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ReasoningParserName {
    /// Derived from the model's special tokens and chat template
    #[default]
    Auto,
    /// The channels of gpt-oss
    #[value(aliases = ["openai_gptoss", "gpt_oss", "gpt-oss"])]
    Harmony,
    /// Reasoning from <think> to </think>, if the prompt or the answer has <think>
    Qwen3,
    /// Reasoning up to </think>, from the beginning unless the prompt has closed it
    #[value(name = "deepseek_r1", alias = "deepseek-r1")]
    DeepseekR1,
    /// Everything is the answer
    None,
}

/// The format of a model's answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasoningFormat {
    /// Answers have no reasoning that is marked.
    Off,
    /// Channels of gpt-oss.
    Harmony(HarmonyTokens),
    /// Text between `<think>` and `</think>`.
    Think(ThinkFormat),
}

impl ReasoningFormat {
    /// Whether a token is markup, which is no part of the text of an answer in a chat.
    pub fn is_mark(&self, token: Token) -> bool {
        match self {
            Self::Off => false,
            Self::Harmony(tokens) => tokens.is_mark(token),
            Self::Think(format) => format.tokens.is_some_and(|tokens| tokens.is_mark(token)),
        }
    }
}

/// What a model's vocabulary and chat template say of its reasoning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasoningMarks {
    harmony: Option<HarmonyTokens>,
    think: Option<ThinkTokens>,
    /// The chat template writes `<think>` or looks for `</think>`.
    template_thinks: bool,
}

/// A parser was asked for that the model's vocabulary does not have the tokens for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--reasoning-parser harmony: the model's vocabulary lacks <|start|>, <|channel|>, <|message|> or \
     <|end|>, of which such answers consist; give another parser, or none"
)]
pub struct ReasoningError;

impl ReasoningMarks {
    /// The marks among `words`, the written forms of all tokens.
    pub(in crate::text) fn find<'a>(
        words: impl Iterator<Item = (Token, &'a str)>,
        template_thinks: bool,
    ) -> Self {
        let marks = words.filter(|(_, word)| word.starts_with('<') && word.ends_with('>'));
        let marks: BTreeMap<&str, Token> = marks.map(|(token, word)| (word, token)).collect();
        let named = |name: &str| marks.get(name).copied();
        Self {
            harmony: HarmonyTokens::find(named),
            think: ThinkTokens::find(named),
            template_thinks,
        }
    }

    /// The format that `name` asks for.
    ///
    /// # Errors
    /// When the vocabulary does not have the tokens that it is made of.
    pub fn format(&self, name: ReasoningParserName) -> Result<ReasoningFormat, ReasoningError> {
        let think = |begins_inside| {
            ReasoningFormat::Think(ThinkFormat { tokens: self.think, begins_inside })
        };
        Ok(match (name, self.harmony) {
            (ReasoningParserName::None, _) => ReasoningFormat::Off,
            (ReasoningParserName::Auto | ReasoningParserName::Harmony, Some(tokens)) => {
                ReasoningFormat::Harmony(tokens)
            }
            (ReasoningParserName::Harmony, None) => return Err(ReasoningError),
            (ReasoningParserName::Auto, None) if self.template_thinks => think(false),
            (ReasoningParserName::Auto, None) => ReasoningFormat::Off,
            (ReasoningParserName::Qwen3, _) => think(false),
            (ReasoningParserName::DeepseekR1, _) => think(true),
        })
    }
}

impl fmt::Display for ReasoningFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "chat answers are not searched for reasoning",
            Self::Harmony(_) => {
                "chat answers are parsed as harmony: analysis becomes reasoning_content, final content"
            }
            Self::Think(ThinkFormat { begins_inside: false, .. }) => {
                "chat answers: what stands between <think> and </think> becomes reasoning_content"
            }
            Self::Think(ThinkFormat { begins_inside: true, .. }) => {
                "chat answers: what stands before </think> becomes reasoning_content"
            }
        })?;
        f.write_str(" (--reasoning-parser)")
    }
}

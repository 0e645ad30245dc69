//! What models say, cut anywhere, and what of it is reasoning and what is content.

mod any_answer;
mod harmony;
mod think;

use super::*;
use crate::sched::{Delivery, Finish, RequestId, Usage};
use crate::text::testing::{harmony, model, thinking, tokens};
use crate::text::{AskedText, TextKind, TextModel, TextStage};
use clap::ValueEnum;
use std::sync::Arc;

const TAGS: [&str; 2] = ["<think>", "</think>"];
const ID: RequestId = RequestId(1);

/// A model with its stage, and prompts for it.
struct Chat {
    model: TextModel,
    format: ReasoningFormat,
}

/// What a reader gets of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Heard {
    reasoning: String,
    content: String,
    reasoning_tokens: u32,
    stopped: bool,
}

impl Chat {
    fn new(model: TextModel, name: ReasoningParserName) -> Self {
        let format = model.facts().reasoning().format(name).unwrap();
        Self { model, format }
    }

    fn harmony() -> Self {
        Self::new(harmony(), ReasoningParserName::Auto)
    }

    fn tokens(&self, text: &str) -> Vec<Token> {
        tokens(&self.model, text)
    }

    /// The answer that comes in `parts`, behind `prompt`.
    fn hear(&self, prompt: &str, stop: &[&str], parts: &[&[Token]]) -> Heard {
        let mut stage = TextStage::new(Arc::clone(self.model.facts()), self.format);
        let parser = stage.parser(true, &self.tokens(prompt));
        let stop: Vec<String> = stop.iter().map(|&stop| stop.to_owned()).collect();
        stage.open(ID, AskedText { stop, ..AskedText::default() }, parser);
        let mut heard = Heard::default();
        for (number, part) in parts.iter().enumerate() {
            let finish = (number + 1 == parts.len()).then_some(Finish::Length);
            let usage = Usage::default();
            let tokens = (*part).into();
            let pushed = stage.push(&Delivery {
                id: ID,
                tokens,
                logprobs: Vec::new(),
                finish,
                usage,
                end_token: None,
            });
            heard.reasoning += &pushed.text.text_of(TextKind::Reasoning);
            heard.content += &pushed.text.text_of(TextKind::Content);
            heard.reasoning_tokens = pushed.end.reasoning_tokens;
            heard.stopped |= pushed.stop.is_some();
        }
        heard
    }

    /// Reasoning and content of an answer.
    fn split(&self, prompt: &str, answer: &str) -> (String, String) {
        let heard = self.hear(prompt, &[], &[&self.tokens(answer)]);
        (heard.reasoning, heard.content)
    }
}

fn pair(reasoning: &str, content: &str) -> (String, String) {
    (reasoning.to_owned(), content.to_owned())
}

/// A prompt in harmony.
const PROMPT: &str = "<|start|>user<|message|>Hi<|end|><|start|>assistant";

#[test]
fn the_format_follows_from_vocabulary_and_template_or_from_the_flag() {
    let format = |model: &TextModel, name| model.facts().reasoning().format(name);
    let auto = |model: &TextModel| format(model, ReasoningParserName::Auto).unwrap();
    assert!(matches!(auto(&harmony()), ReasoningFormat::Harmony(_)));
    assert!(matches!(auto(&thinking(&TAGS)), ReasoningFormat::Think(_)));
    assert!(matches!(auto(&thinking(&[])), ReasoningFormat::Think(_)));
    assert_eq!(auto(&model()), ReasoningFormat::Off);
    assert_eq!(format(&harmony(), ReasoningParserName::None), Ok(ReasoningFormat::Off));
    let error = format(&model(), ReasoningParserName::Harmony).unwrap_err().to_string();
    assert!(error.contains("lacks <|start|>"), "{error}");
    let named = |name| ReasoningParserName::from_str(name, false).unwrap();
    assert_eq!(named("openai_gptoss"), ReasoningParserName::Harmony);
    assert_eq!(named("deepseek_r1"), ReasoningParserName::DeepseekR1);
}

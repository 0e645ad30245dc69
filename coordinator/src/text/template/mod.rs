//! A model's chat template: Jinja as transformers renders it, within bounds.
//!
//! Templates come with models and conversations from anybody, and neither is trusted. The source
//! has bounds before it is parsed ([`source`]). Fuel bounds the work and the memory of a rendering,
//! and a recursion limit bounds its stack. Nothing can be loaded or included. A broken template
//! fails chats and not the start of a server, since the model may still serve completions.

mod arguments;
mod clock;
mod filters;
#[cfg(test)]
mod hostile;
mod json;
mod letters;
mod methods;
mod print;
mod source;
mod string_methods;
#[cfg(test)]
mod tests;
mod text_filters;

use super::TextError;
use jiff::civil::DateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, Value, context};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// One message of a conversation, as templates see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The role of the speaker: `system`, `user`, `assistant`, or another that the template knows.
    pub role: String,
    /// The text of the message.
    pub content: String,
    /// The name of the speaker among those with the same role; few templates use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the assistant thought before it said this. Templates read it under two names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
}

/// A message by the names that templates have for its fields.
#[derive(Serialize)]
struct TemplateMessage<'a> {
    role: &'a str,
    content: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    /// The name in templates of Qwen 3 and most others.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    /// The name in the template of gpt-oss.
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<&'a str>,
}

impl Message {
    /// A message without a name.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), name: None, reasoning: None }
    }

    /// Bytes of what was said and thought.
    pub fn text_bytes(&self) -> usize {
        self.content.len() + self.reasoning.as_ref().map_or(0, String::len)
    }

    fn for_template(&self) -> TemplateMessage<'_> {
        let reasoning = self.reasoning.as_deref();
        TemplateMessage {
            role: &self.role,
            content: &self.content,
            name: self.name.as_deref(),
            reasoning_content: reasoning,
            thinking: reasoning,
        }
    }
}

/// Special tokens by the names that templates use, such as `bos_token`.
pub type SpecialTokens = BTreeMap<String, String>;

/// The fuel of a rendering, of which an instruction or 64 bytes consume one unit. Most templates
/// take some 200 units per message and read its text a dozen times. Those of Gemma 4 read the whole
/// conversation again for every message, which is possible for some 1,400 messages.
const FUEL_BASE: u64 = 200_000;
const FUEL_PER_MESSAGE: u64 = 5_000;
/// How many bytes of messages add one unit of fuel.
const BYTES_PER_FUEL: u64 = 2;
/// How many bytes of an error are shown.
const CAUSE_BYTES_MAX: usize = 500;
const RECURSION_MAX: usize = 200;
const NAME: &str = "chat_template";

/// A chat template, or why it cannot be used.
#[derive(Debug)]
pub struct ChatTemplate {
    /// As the model's files have it; empty if it could not be read.
    written: String,
    parsed: Result<ParsedTemplate, TemplateError>,
    special: SpecialTokens,
    thinks: bool,
}

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error)]
enum TemplateError {
    #[error("{0}")]
    Unreadable(String),
    #[error("{NAME}: {0}")]
    OutOfBounds(#[from] source::SourceError),
    #[error("{}", error_text(.0))]
    Jinja(#[from] Error),
}

#[derive(Debug)]
struct ParsedTemplate {
    environment: Environment<'static>,
    /// Whether the template knows the role `developer`.
    knows_developer: bool,
}

impl ChatTemplate {
    /// The stack of a thread that parses or renders templates. Nested values are written, compared
    /// and dropped by recursion, and only fuel bounds how deep they are.
    pub const STACK_BYTES: usize = 128 << 20;

    /// Parses `source`. [`Self::render`] tells what is wrong with it.
    pub fn new(source: &str, special: SpecialTokens) -> Self {
        let thinks = source.contains("<think>") || source.contains("</think>");
        let parsed = ParsedTemplate::new(source);
        Self { written: source.to_owned(), parsed, special, thinks }
    }

    /// A template that cannot be used, for this reason.
    pub fn broken(cause: String) -> Self {
        let parsed = Err(TemplateError::Unreadable(cause));
        let (written, special) = (String::new(), SpecialTokens::new());
        Self { written, parsed, special, thinks: false }
    }

    /// The source as the model's files have it; empty if it could not be read.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// The special tokens that it uses, by name.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// Whether the template writes `<think>` or `</think>`, or looks for it.
    pub fn thinks(&self) -> bool {
        self.thinks
    }

    /// The prompt that asks for the answer to `messages`.
    pub fn render(&self, messages: &[Message]) -> Result<String, TextError> {
        self.render_at(messages, clock::now())
    }

    fn render_at(&self, messages: &[Message], now: DateTime) -> Result<String, TextError> {
        let parsed =
            self.parsed.as_ref().map_err(|cause| TextError::Template(cause.to_string()))?;
        let messages = parsed.known_roles(messages);
        let seen: Vec<TemplateMessage<'_>> = messages.iter().map(Message::for_template).collect();
        self.render_values(Value::from(Serde(&seen)), fuel(&messages), now)
    }

    fn render_values(
        &self,
        messages: Value,
        fuel: u64,
        now: DateTime,
    ) -> Result<String, TextError> {
        let parsed =
            self.parsed.as_ref().map_err(|cause| TextError::Template(cause.to_string()))?;
        let values = context! {
            messages,
            add_generation_prompt => true,
            // As in transformers these are none, which templates tell from undefined.
            tools => (),
            documents => (),
            ..Value::from(Serde(&self.special))
        };
        parsed.render(values, fuel, now).map_err(|error| TextError::Template(error_text(&error)))
    }
}

impl ParsedTemplate {
    fn new(source: &str) -> Result<Self, TemplateError> {
        let source = source::prepare(source)?;
        let mut environment = environment()?;
        environment.add_template_owned(NAME, source.text)?;
        Ok(Self { environment, knows_developer: source.knows_developer })
    }

    /// The messages with roles that the template knows. OpenAI's `developer` is `system` under a
    /// newer name. Older templates would drop it, refuse it, or write a role that the model never
    /// saw.
    fn known_roles<'a>(&self, messages: &'a [Message]) -> Cow<'a, [Message]> {
        let is_unknown = |message: &Message| message.role == "developer" && !self.knows_developer;
        let mut messages = Cow::Borrowed(messages);
        if messages.iter().any(is_unknown) {
            let unknown = messages.to_mut().iter_mut().filter(|message| is_unknown(message));
            unknown.for_each(|message| message.role = "system".to_owned());
        }
        messages
    }

    fn render(&self, values: Value, fuel: u64, now: DateTime) -> Result<String, Error> {
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        let strftime_now =
            move |state: &State<'_, '_>, format: &str| clock::strftime_now(state, format, now);
        environment.add_function("strftime_now", strftime_now);
        environment.get_template(NAME)?.render(values)
    }
}

/// The fuel for rendering `messages`.
fn fuel(messages: &[Message]) -> u64 {
    let bytes: usize = messages.iter().map(Message::text_bytes).sum();
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let of_messages = count(messages.len()).saturating_mul(FUEL_PER_MESSAGE);
    FUEL_BASE.saturating_add(of_messages).saturating_add(count(bytes) / BYTES_PER_FUEL)
}

/// Jinja with the settings of transformers.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax?);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_recursion_limit(RECURSION_MAX);
    environment.set_formatter(print::format);
    environment.set_unknown_method_callback(methods::unknown);
    environment.add_function("raise_exception", raise_exception);
    filters::add(&mut environment);
    Ok(environment)
}

/// The function with which templates refuse a conversation.
fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The text of an error: the template's line and the cause, and nothing of the conversation.
fn error_text(error: &Error) -> String {
    let line = error.line().map_or(String::new(), |line| format!(" line {line}"));
    let cause = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "the conversation takes too long to render".to_owned(),
        (_, Some(detail)) => detail.to_owned(),
        (kind, None) => kind.to_string(),
    };
    let shown = &cause[..cause.floor_char_boundary(CAUSE_BYTES_MAX)];
    let rest = if shown.len() < cause.len() { " ..." } else { "" };
    format!("{NAME}{line}: {shown}{rest}")
}

//! A model's chat template: Jinja as transformers renders it, within bounds.
//!
//! Templates come with models, conversations from anybody, and neither is trusted. A source is
//! measured before it is parsed ([`source`]); fuel bounds the work and the memory of a rendering,
//! and the recursion limit its stack; nothing can be loaded or included. A template that is not in
//! order fails the chats, not the start of a server, as the same model may be good for completions.

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
    /// Who speaks: `system`, `user`, `assistant` or what the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
    /// Which of those that have the role speaks; few templates know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Message {
    /// Of nobody in particular.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), name: None }
    }
}

/// Special tokens by the names that templates have for them, as `bos_token`.
pub type SpecialTokens = BTreeMap<String, String>;

/// What a rendering may cost, where a unit pays for an instruction or for 64 bytes. Most templates
/// take some 200 units a message and go over its text a dozen times; those of Gemma 4 go over the
/// conversation once more with every message, and may with some 1,400 of them.
const FUEL_BASE: u64 = 200_000;
const FUEL_PER_MESSAGE: u64 = 5_000;
/// Bytes of messages for which there is one unit more.
const BYTES_PER_FUEL: u64 = 2;
/// Bytes of an error that are told.
const CAUSE_BYTES_MAX: usize = 500;
const RECURSION_MAX: usize = 200;
const NAME: &str = "chat_template";

/// A chat template, or why it is none.
#[derive(Debug)]
pub struct ChatTemplate {
    parsed: Result<ParsedTemplate, TemplateError>,
    special: SpecialTokens,
}

/// Why a chat template cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
struct TemplateError(String);

#[derive(Debug)]
struct ParsedTemplate {
    environment: Environment<'static>,
    /// Whether the role `developer` means something to the template.
    knows_developer: bool,
}

impl ChatTemplate {
    /// Stack for a thread that parses or renders templates. Values in values are written, compared
    /// and dropped by recursion, and fuel alone bounds how deep they are.
    pub const STACK_BYTES: usize = 128 << 20;

    /// Parses `source`. What is wrong with it is told by [`Self::render`].
    pub fn new(source: &str, special: SpecialTokens) -> Self {
        Self { parsed: ParsedTemplate::new(source), special }
    }

    /// A template that cannot be had, for this reason.
    pub fn broken(cause: String) -> Self {
        Self { parsed: Err(TemplateError(cause)), special: SpecialTokens::new() }
    }

    /// The prompt that asks for the answer to `messages`.
    pub fn render(&self, messages: &[Message]) -> Result<String, TextError> {
        self.render_at(messages, clock::now())
    }

    fn render_at(&self, messages: &[Message], now: DateTime) -> Result<String, TextError> {
        let parsed =
            self.parsed.as_ref().map_err(|error| TextError::Template(error.to_string()))?;
        let messages = parsed.known_roles(messages);
        self.render_values(Value::from(Serde(&messages)), fuel(&messages), now)
    }

    fn render_values(
        &self,
        messages: Value,
        fuel: u64,
        now: DateTime,
    ) -> Result<String, TextError> {
        let parsed =
            self.parsed.as_ref().map_err(|error| TextError::Template(error.to_string()))?;
        let values = context! {
            messages,
            add_generation_prompt => true,
            // Defined and none, as in transformers: templates tell it from undefined.
            tools => (),
            documents => (),
            ..Value::from(Serde(&self.special))
        };
        parsed.render(values, fuel, now).map_err(|error| TextError::Template(error_text(&error)))
    }
}

impl ParsedTemplate {
    fn new(source: &str) -> Result<Self, TemplateError> {
        let source = source::prepare(source);
        let source = source.map_err(|error| TemplateError(format!("{NAME}: {error}")))?;
        let wrong = |error| TemplateError(error_text(&error));
        let mut environment = environment().map_err(wrong)?;
        environment.add_template_owned(NAME, source.text).map_err(wrong)?;
        Ok(Self { environment, knows_developer: source.knows_developer })
    }

    /// The messages with roles that the template knows: OpenAI's `developer` is the `system` of
    /// newer models, and older templates would drop it, refuse it or write a role that the model
    /// never saw.
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

/// What rendering these may cost.
fn fuel(messages: &[Message]) -> u64 {
    let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let of_messages = count(messages.len()).saturating_mul(FUEL_PER_MESSAGE);
    FUEL_BASE.saturating_add(of_messages).saturating_add(count(bytes) / BYTES_PER_FUEL)
}

/// Jinja as transformers sets it up.
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

/// What templates call when a conversation does not suit them.
fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Names template and line, and says nothing of the conversation.
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

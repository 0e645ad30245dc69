//! A model's chat template: Jinja as transformers renders it, within bounds.
//!
//! Templates come from the model's files, conversations from anybody. Fuel bounds time and memory
//! of a rendering and the recursion limit its stack; nothing can be loaded or included.

use super::TextError;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value, context};
use serde::{Deserialize, Serialize};

/// One message of a conversation, as templates see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant` or what the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// Instructions a rendering may take: a base, and more per message.
const FUEL_BASE: u64 = 200_000;
const FUEL_PER_MESSAGE: u64 = 500;
const RECURSION_MAX: usize = 200;
const NAME: &str = "chat_template";

/// A parsed chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Parses `source`; `bos` and `eos` are what it knows as `bos_token` and `eos_token`.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TextError> {
        let mut environment = Environment::new();
        // As transformers sets up Jinja.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| failed(&error))?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_recursion_limit(RECURSION_MAX);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", super::clock::strftime_now);
        environment.add_template_owned(NAME, source.to_owned()).map_err(|error| failed(&error))?;
        Ok(Self { environment, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// The prompt that asks for the answer to `messages`.
    pub fn render(&self, messages: &[Message]) -> Result<String, TextError> {
        let count = u64::try_from(messages.len()).unwrap_or(u64::MAX);
        let mut environment = self.environment.clone();
        environment
            .set_fuel(Some(FUEL_BASE.saturating_add(count.saturating_mul(FUEL_PER_MESSAGE))));
        let template = environment.get_template(NAME).map_err(|error| failed(&error))?;
        let values = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => true,
            // Defined and none, as in transformers: templates tell it from undefined.
            tools => (),
            documents => (),
            bos_token => &self.bos,
            eos_token => &self.eos,
        };
        template.render(values).map_err(|error| failed(&error))
    }
}

/// What templates call when a conversation does not suit them.
fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Names template and line, and says nothing of the conversation.
fn failed(error: &Error) -> TextError {
    let line = error.line().map_or(String::new(), |line| format!(" line {line}"));
    let cause = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "the conversation takes too long to render".to_owned(),
        (_, Some(detail)) => detail.to_owned(),
        (kind, None) => kind.to_string(),
    };
    TextError::Template(format!("{NAME}{line}: {cause}"))
}

//! The request core: what every front (HTTP, gRPC, command line) hands in and gets back.
//!
//! A front calls [`Core::generate`] and reads an [`AnswerStream`]. The serve loop takes
//! [`ServeCommand`]s from the core's channel and answers through [`Readers`]. Its updates cross to
//! the front's thread in an [`Outbox`], once a step, and [`thread`] runs the dispatcher that
//! brings them to their streams. A network front is one row of the table that [`serve_all`] takes.
//! Nothing here schedules, and nothing here knows a protocol.

mod answer_stream;
mod api_keys;
mod checks;
mod command;
mod core;
mod ends;
mod error;
mod generate_request;
mod info;
mod load;
mod outbox;
mod readers;
mod refusals;
mod servers;
mod stream_buffer;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod thread;
mod tokenize;

pub use self::core::{Core, CoreParts};
pub use answer_stream::{AnswerStream, StreamEvent};
pub use api_keys::{ApiKeyError, ApiKeys, KeyRefusal};
pub use command::{ServeCommand, Submit};
pub use error::{Field, FieldError, SubmitError};
pub use generate_request::{GenerateRequest, MaxTokens, Prompt, PromptTokens};
pub use info::{
    CHOICES_MAX, CoreLimits, MESSAGES_MAX, ModelInfo, Readiness, STOP_STRINGS_MAX, STOP_TOKENS_MAX,
    UNREAD_BYTES_MAX,
};
pub use load::Load;
pub use outbox::Outbox;
pub use readers::Readers;
pub use servers::{Front, FrontContext, serve_all};
pub use stream_buffer::{End, FailKind, ReadCounter, ReadMode};

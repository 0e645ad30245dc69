//! The request core: what every front (HTTP, gRPC, command line) hands in and gets back.
//!
//! A front calls [`Core::generate`] and reads a [`AnswerStream`]. The serve loop takes [`ServeCommand`]s from
//! the core's channel and answers through [`Readers`]; between the two lies one [`Outbox`]. Nothing here schedules, and nothing here knows a protocol.

mod answer_stream;
mod checks;
mod core;
mod error;
mod generate_request;
mod info;
mod outbox;
mod readers;
mod stream_buffer;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod thread;

pub use self::core::{Core, CoreParts};
pub use answer_stream::{AnswerStream, StreamEvent};
pub use error::SubmitError;
pub use generate_request::{GenerateRequest, MaxTokens, Prompt};
pub use info::{
    CoreLimits, MESSAGES_MAX, ModelInfo, Readiness, STOP_STRINGS_MAX, UNREAD_BYTES_MAX,
};
pub use outbox::Outbox;
pub use readers::Readers;
pub use stream_buffer::{End, FailKind, ReadCounter, ReadMode};

use crate::sched::{Request, RequestId};
use std::sync::Arc;

/// What fronts ask of the serve loop.
#[derive(Debug)]
pub enum ServeCommand {
    /// Run a request. Answered by `Readers::admit`.
    Submit(Box<Submit>),
    /// The reader has left.
    Cancel(RequestId),
    /// Finish what runs, take nothing new.
    Stop,
}

/// A request, and what its reader lets the serve loop know.
#[derive(Debug)]
pub struct Submit {
    /// For the scheduler.
    pub request: Request,
    /// Texts at which the answer ends; they are not part of it.
    pub stop: Vec<String>,
    /// What the reader has read.
    pub read_counter: Arc<ReadCounter>,
}

//! The request core: what every front (HTTP, gRPC, command line) hands in and gets back.
//!
//! A front calls [`Core::generate`] and reads a [`Stream`]. The serve loop takes [`Command`]s from
//! the core's channel and answers through [`Fronts`]; between the two lies one [`Post`]. Nothing here schedules, and nothing here knows a protocol.

mod ask;
mod checks;
mod core;
mod error;
mod fronts;
mod info;
mod mailbox;
mod post;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod thread;

pub use self::core::{Core, Parts};
pub use ask::{Generate, MaxTokens, Prompt};
pub use error::SubmitError;
pub use fronts::Fronts;
pub use info::{Limits, MESSAGES_MAX, ModelInfo, Readiness, STOP_STRINGS_MAX, UNREAD_BYTES_MAX};
pub use mailbox::{End, FailKind, Reading, Receipt};
pub use post::Post;
pub use stream::{Reply, Stream};

use crate::sched::{Request, RequestId};
use std::sync::Arc;

/// What fronts ask of the serve loop.
#[derive(Debug)]
pub enum Command {
    /// Run a request. Answered by `Fronts::admit`.
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
    pub receipt: Arc<Receipt>,
}

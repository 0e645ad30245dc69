//! What fronts ask of the serve loop.

use super::stream_buffer::ReadCounter;
use crate::sched::{Request, RequestId};
use crate::text::AskedText;
use std::sync::Arc;

/// What fronts ask of the serve loop.
#[derive(Debug)]
pub enum ServeCommand {
    /// Runs a request. [`super::Readers::admit`] answers it.
    Submit(Box<Submit>),
    /// Ends a request whose reader has left.
    Cancel(RequestId),
    /// Lets running requests end and takes no new ones.
    Stop,
}

/// A request, and what its reader lets the serve loop know.
#[derive(Debug)]
pub struct Submit {
    /// The scheduler's part.
    pub request: Request,
    /// What the request says of its answer's text.
    pub text: AskedText,
    /// The answer is one in a chat, whose reasoning is told from its content.
    pub is_chat: bool,
    /// What the reader has read.
    pub read_counter: Arc<ReadCounter>,
}

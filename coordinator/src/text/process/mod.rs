//! Text to tokens in a process of its own.
//!
//! Tokenizers and chat templates come with models, and libraries run them. Their data can make such
//! code grow without bound, run for minutes, overflow its stack or panic. So it runs in one child,
//! `binfer text`, under limits of memory ([`limits`]) and time ([`Deadlines`]). A panic is an error
//! of the request at hand. A process that goes over a limit is ended and started again. The request
//! that caused it gets an error; the others are tried again one at a time.
//!
//! `run` and `serve` encode here alone. Only tests, and `bench` for its vocabulary, use a
//! [`TextModel`](super::TextModel) in their own process.

mod config;
mod handle;
mod limits;
mod role;
mod running;
mod shared;
mod supervisor;
#[cfg(test)]
mod tests;
mod wire;

pub use config::{Deadlines, TextConfig, TextSource};
pub use handle::TextProcess;
pub use limits::JOBS_AT_ONCE;
pub use role::{TextArgs, run};
pub use supervisor::OnRestart;
pub use wire::TextJob;

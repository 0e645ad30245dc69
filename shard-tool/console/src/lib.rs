//! Writes to stdout and stderr for every package of the program; nothing else does.
//!
//! Results go to stdout. A result that cannot be written is an error with an exit status of its
//! own. Messages go to stderr. A message that cannot be written is dropped, since nobody is left to
//! tell. Neither panics, whatever the streams are. Messages, and results on a terminal, are made
//! [`printable()`], because names and texts come from model files. A pipe or a file gets results
//! byte for byte. The progress bar below the messages is hidden while one is written.

mod printable;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::sync::{Arc, LazyLock};

use indicatif::ProgressBar;

pub use printable::printable;

/// The progress bar below the messages of this process; hidden until it gets a draw target.
static BAR: LazyLock<ProgressBar> = LazyLock::new(ProgressBar::hidden);
static STDERR_IS_TERMINAL: LazyLock<bool> = LazyLock::new(|| io::stderr().is_terminal());
static STDOUT_IS_TERMINAL: LazyLock<bool> = LazyLock::new(|| io::stdout().is_terminal());

/// Why a result could not be written to stdout.
#[derive(Debug, thiserror::Error)]
pub enum StdoutError {
    /// The reader of the pipe has gone, as `| head` does.
    #[error("stdout: its reader has gone")]
    Unread,
    /// The write failed, for example because the disk is full.
    #[error("stdout: {0}")]
    Failed(io::Error),
}

impl StdoutError {
    /// The status that a shell shows for a command that SIGPIPE ended, or `EX_IOERR` of sysexits.h.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Unread => 141,
            Self::Failed(_) => 74,
        }
    }
}

impl From<io::Error> for StdoutError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Unread,
            _ => Self::Failed(error),
        }
    }
}

/// Prepares a process. Panics are told through this writer. A file that reaches its size limit is
/// an error of the write, and does not end the process by SIGXFSZ.
pub fn init() {
    std::panic::set_hook(Box::new(tell_panic));
    // The handler only sets a flag. Unlike SIG_IGN, children do not inherit it.
    let unread = Arc::default();
    if let Err(error) = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, unread) {
        message(format_args!("SIGXFSZ cannot be caught: {error}"));
    }
}

/// Writes a result to stdout and flushes it.
///
/// # Errors
/// When stdout does not take it.
pub fn print(text: &str) -> Result<(), StdoutError> {
    let text = if *STDOUT_IS_TERMINAL { printable(text) } else { text.into() };
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// Writes one line to stderr. Line breaks inside it, which only text from outside has, are escaped.
pub fn message(text: impl Display) {
    let text = text.to_string();
    write_to_stderr(&printable(&text).replace('\n', "\\n"));
}

/// Writes to stderr what accompanies a result without being part of it, as it comes. On a terminal
/// it is fainter than the result.
pub fn aside(text: &str) {
    let text = printable(text);
    let text = match *STDERR_IS_TERMINAL && !text.trim().is_empty() {
        true => format!("\u{1b}[2m{text}\u{1b}[22m").into(),
        false => text,
    };
    BAR.suspend(|| drop(io::stderr().write_all(text.as_bytes())));
}

/// Writes several lines to stderr, such as a table.
pub fn lines(text: &str) {
    write_to_stderr(&printable(text.trim_end_matches('\n')));
}

/// The progress bar of this process.
#[must_use]
pub fn bar() -> &'static ProgressBar {
    &BAR
}

/// Writes a message at once, so that messages of several processes do not mix within a line.
fn write_to_stderr(text: &str) {
    BAR.suspend(|| write_line(text));
}

fn write_line(text: &str) {
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Tells of a panic. It bypasses the progress bar, whose lock the panicking thread may hold.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let place = panic.location().map(|place| format!(" at {place}")).unwrap_or_default();
    let cause = panic.payload_as_str().unwrap_or("no message");
    let backtrace = std::backtrace::Backtrace::capture();
    let mut text = format!("binfer: a bug: thread '{name}' panicked{place}: {cause}");
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        text = format!("{text}\n{backtrace}");
    }
    write_line(&printable(&text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_left_and_a_full_disk_end_with_their_own_statuses() {
        let status = |kind: io::ErrorKind| StdoutError::from(io::Error::from(kind)).exit_status();
        assert_eq!(status(io::ErrorKind::BrokenPipe), 141);
        assert_eq!(status(io::ErrorKind::StorageFull), 74);
        assert_eq!(status(io::ErrorKind::FileTooLarge), 74);
    }
}

//! SIGINT and SIGTERM, before a command has anything to shut down and after.
//!
//! At first either signal ends the process at once with its status. This holds for the first
//! process of a container too, which the kernel would not end. A command that has something to shut
//! down calls [`stops`]. From then on the first signal is reported, and only a second one ends the
//! process.

use std::io;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Whether a signal still ends the process at once.
static ENDS_AT_ONCE: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(true.into()));

/// A signal that asks the process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGINT, Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl StopSignal {
    /// The exit status that a shell shows for a command that the signal ended.
    #[must_use]
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// Lets either signal end the process with its status, until [`stops`] is called.
///
/// # Errors
/// When the system refuses a handler.
pub fn end_at_once() -> io::Result<()> {
    for (number, stop) in [
        (signal_hook::consts::SIGINT, StopSignal::Interrupt),
        (signal_hook::consts::SIGTERM, StopSignal::Terminate),
    ] {
        let condition = Arc::clone(&ENDS_AT_ONCE);
        signal_hook::flag::register_conditional_shutdown(
            number,
            stop.exit_status().into(),
            condition,
        )?;
    }
    Ok(())
}

/// Reports signals from now on instead of ending the process. It must be called within a runtime.
///
/// # Errors
/// When the system refuses a handler.
pub fn stops() -> io::Result<StopSignals> {
    let stops = StopSignals {
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
    };
    ENDS_AT_ONCE.store(false, Ordering::Relaxed);
    Ok(stops)
}

/// The signals as they come.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Waits for the next signal.
    pub async fn next(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.interrupt.recv() => StopSignal::Interrupt,
            _ = self.terminate.recv() => StopSignal::Terminate,
        }
    }
}

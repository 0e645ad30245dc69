//! Patience: what may pass by itself is tried again, later and later, and not forever.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::HubError;

/// Failures in a row, without a byte between them, after which it is given up.
const FAILURES_MAX: u32 = 6;
/// Wait after the first failure; doubles with each.
const WAIT_FIRST: Duration = Duration::from_millis(250);
/// Longest wait, whatever the server asks for.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How often a waiting thread looks whether it is still wanted.
const STOP_CHECK: Duration = Duration::from_millis(50);

/// How a request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Trying again is of no use.
    Final(HubError),
    /// It may work later: a broken connection, an overloaded server.
    Passing {
        cause: String,
        /// What the server asked for.
        wait: Option<Duration>,
    },
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

impl Failure {
    pub(super) fn passing(cause: impl Into<String>) -> Self {
        Self::Passing { cause: cause.into(), wait: None }
    }
}

/// Set when one thread has failed for good: the others need not go on.
#[derive(Debug, Default)]
pub(super) struct Stop(AtomicBool);

impl Stop {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn wait(&self, wait: Duration) {
        let until = Instant::now() + wait;
        while !self.is_set() && Instant::now() < until {
            std::thread::sleep(STOP_CHECK.min(until.saturating_duration_since(Instant::now())));
        }
    }
}

/// Failures in a row.
pub(super) struct Retry<'a> {
    stop: &'a Stop,
    failures: u32,
}

impl<'a> Retry<'a> {
    pub(super) fn new(stop: &'a Stop) -> Self {
        Self { stop, failures: 0 }
    }

    /// Something arrived: patience begins anew.
    pub(super) fn progressed(&mut self) {
        self.failures = 0;
    }

    /// Waits before another try, or says that there is none. `what` was wanted.
    pub(super) fn after(&mut self, failure: Failure, what: &str) -> Result<(), HubError> {
        let (cause, asked) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing { cause, wait } => (cause, wait),
        };
        self.failures += 1;
        if self.failures >= FAILURES_MAX || self.stop.is_set() {
            let way_out = "check the network and HF_ENDPOINT, then try again";
            return Err(HubError::Unreachable(format!("{what}: {cause}; {way_out}")));
        }
        let own = WAIT_FIRST * (1 << (self.failures - 1));
        self.stop.wait(asked.unwrap_or(own).min(WAIT_MAX));
        Ok(())
    }

    /// Tries until it works or fails for good.
    pub(super) fn until<T>(
        stop: &'a Stop,
        what: &str,
        mut once: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, HubError> {
        let mut retry = Self::new(stop);
        loop {
            match once() {
                Ok(value) => return Ok(value),
                Err(failure) => retry.after(failure, what)?,
            }
        }
    }
}

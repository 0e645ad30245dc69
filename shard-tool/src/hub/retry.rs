//! Retries: a failure that may pass by itself is tried again after longer and longer waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::HubError;

/// After so many failures in a row, without a byte between them, a request is given up.
const FAILURES_MAX: u32 = 6;
/// The wait after the first failure. It doubles with each further one.
const WAIT_FIRST: Duration = Duration::from_millis(250);
/// The longest wait, whatever the server asks for.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How often a waiting thread checks whether it should stop.
const STOP_CHECK: Duration = Duration::from_millis(50);

/// How a request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another try would fail as well.
    Final(HubError),
    /// Another try may succeed, as after a broken connection or with an overloaded server.
    Passing {
        cause: String,
        /// The wait that the server asked for.
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

/// A flag that is set when one thread has failed for good, so that the others stop.
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

/// Counts the failures in a row of a request.
pub(super) struct Retry<'a> {
    stop: &'a Stop,
    failures: u32,
}

impl<'a> Retry<'a> {
    pub(super) fn new(stop: &'a Stop) -> Self {
        Self { stop, failures: 0 }
    }

    /// Notes that bytes arrived, which ends the row of failures.
    pub(super) fn progressed(&mut self) {
        self.failures = 0;
    }

    /// Waits before another try. Returns an error if there is none. `what` names what was asked
    /// for.
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

    /// Calls `once` until it succeeds or fails for good.
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

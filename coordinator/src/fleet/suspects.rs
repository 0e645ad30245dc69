//! Which rank is to blame when workers fail.
//!
//! A worker that is killed makes others fail, and the news of its end may come after theirs. So a
//! rank that failed is a suspect first, and is blamed only after [`BLAME_DELAY`].

use std::time::{Duration, Instant};

use super::error::FleetError;

/// How long a failure waits for a better reason to turn up.
const BLAME_DELAY: Duration = Duration::from_millis(300);

/// The ranks that failed, the first one first.
#[derive(Debug, Default)]
pub(super) struct Suspects(Vec<Suspect>);

#[derive(Debug)]
struct Suspect {
    rank: usize,
    since: Instant,
    /// The cause that the worker reported; `None` if its stream just closed.
    reported: Option<String>,
}

impl Suspects {
    /// The worker of `rank` reported why it fails.
    pub(super) fn failed(&mut self, rank: usize, cause: String) {
        self.0.push(Suspect { rank, since: Instant::now(), reported: Some(cause) });
    }

    /// The stream of `rank` closed without a reason.
    pub(super) fn closed(&mut self, rank: usize) {
        self.0.push(Suspect { rank, since: Instant::now(), reported: None });
    }

    /// The rank that failed first, once the delay is over.
    pub(super) fn due(&self) -> Option<usize> {
        let first = self.0.first()?;
        (first.since.elapsed() >= BLAME_DELAY).then_some(first.rank)
    }

    /// The first rank that reported its cause, with that cause.
    pub(super) fn reported_cause(&self) -> Option<FleetError> {
        let mut reported = self.0.iter();
        reported.find_map(|one| Some(FleetError::worker(one.rank, one.reported.clone()?)))
    }
}

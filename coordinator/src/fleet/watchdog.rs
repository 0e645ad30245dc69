//! Pure: finds ranks that are silent, or that make no progress while a step is in flight.
//!
//! Liveness is progress of the executing thread, not an answering socket. A heartbeat comes from
//! another thread of the worker and says how far the executing thread has come.

use std::time::{Duration, Instant};

use binfer_proto::cluster::Beat;

use super::error::FleetError;

/// The progress of one rank.
#[derive(Clone, Debug)]
struct RankProgress {
    heard_at: Instant,
    progressed_at: Instant,
    operations: u64,
    step: u64,
    operation: String,
}

/// The progress of all ranks.
#[derive(Debug)]
pub(super) struct Watchdog {
    deadline: Duration,
    ranks: Vec<RankProgress>,
    checked_at: Instant,
    /// Since when a step is in flight.
    busy_since: Option<Instant>,
}

impl Watchdog {
    /// A watchdog that has just heard from all ranks. A rank that makes no progress for `deadline`
    /// is lost.
    pub(super) fn new(world: usize, deadline: Duration, now: Instant) -> Self {
        let seen = RankProgress {
            heard_at: now,
            progressed_at: now,
            operations: 0,
            step: 0,
            operation: String::new(),
        };
        Self { deadline, ranks: vec![seen; world], checked_at: now, busy_since: None }
    }

    /// How often [`Watchdog::check`] is to be called.
    pub(super) fn interval(&self) -> Duration {
        (self.deadline / 8).clamp(Duration::from_millis(50), Duration::from_millis(500))
    }

    /// A message of this rank came.
    pub(super) fn heard_from(&mut self, rank: usize, now: Instant) {
        self.ranks[rank].heard_at = now;
    }

    /// A rank sent a result, which is progress whatever its last heartbeat said.
    pub(super) fn progressed(&mut self, rank: usize, now: Instant) {
        self.ranks[rank].progressed_at = now;
    }

    /// A heartbeat of this rank came.
    pub(super) fn heartbeat(&mut self, rank: usize, beat: Beat, now: Instant) {
        let seen = &mut self.ranks[rank];
        if beat.operations != seen.operations {
            seen.progressed_at = now;
        }
        seen.operations = beat.operations;
        seen.step = beat.step_launched;
        seen.operation = beat.operation;
    }

    /// Tells whether a step is in flight from now on.
    pub(super) fn set_busy(&mut self, busy: bool, now: Instant) {
        match (busy, self.busy_since) {
            (true, None) => self.busy_since = Some(now),
            (false, _) => self.busy_since = None,
            (true, Some(_)) => {}
        }
    }

    /// The step and operation of the last heartbeat of a rank, for messages.
    pub(super) fn last_heartbeat(&self, rank: usize) -> String {
        let RankProgress { step, operation, .. } = &self.ranks[rank];
        match (operation.as_str(), step) {
            ("", _) => "before its first heartbeat".into(),
            (_, 0) => "before its first step".into(),
            (operation, step) => format!("last heard of in step {step}, {operation}"),
        }
    }

    /// The error of a rank that is silent, or makes no progress in a step, for longer than the
    /// deadline.
    pub(super) fn check(&mut self, now: Instant) -> Option<FleetError> {
        let was_suspended = now.duration_since(self.checked_at) > self.interval() * 4;
        self.checked_at = now;
        if was_suspended {
            // This process itself was suspended, and could not hear from anybody meanwhile.
            for rank in &mut self.ranks {
                (rank.heard_at, rank.progressed_at) = (now, now);
            }
            return None;
        }
        let overdue = |since: Instant| now.duration_since(since) > self.deadline;
        let seconds = self.deadline.as_secs_f32();
        let longest_silent = (0..self.ranks.len()).min_by_key(|rank| self.ranks[*rank].heard_at)?;
        if overdue(self.ranks[longest_silent].heard_at) {
            let cause =
                format!("silent for {seconds:.1} s, {}", self.last_heartbeat(longest_silent));
            return Some(FleetError::worker(longest_silent, cause));
        }
        let busy_since = self.busy_since?;
        let stuck = |seen: &RankProgress| overdue(seen.progressed_at.max(busy_since));
        if !self.ranks.iter().all(stuck) {
            return None;
        }
        // Ranks run the same operations. The others wait for the one that has entered the fewest.
        let behind = (0..self.ranks.len()).min_by_key(|rank| self.ranks[*rank].operations)?;
        let cause = format!("no progress for {seconds:.1} s, {}", self.last_heartbeat(behind));
        Some(FleetError::worker(behind, cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(2);

    /// Advances in steps of the interval; every rank of `alive` is heard with its operation count.
    fn pass(
        watchdog: &mut Watchdog,
        from: Instant,
        time: Duration,
        alive: &[(usize, u64)],
    ) -> Option<FleetError> {
        let mut passed = Duration::ZERO;
        while passed < time {
            passed += watchdog.interval();
            for (rank, operations) in alive {
                let operation = "layers.3.attn.attend".into();
                let beat =
                    Beat { operations: *operations, step_launched: 9, step_finished: 8, operation };
                watchdog.heard_from(*rank, from + passed);
                watchdog.heartbeat(*rank, beat, from + passed);
            }
            if let Some(error) = watchdog.check(from + passed) {
                return Some(error);
            }
        }
        None
    }

    #[test]
    fn a_silent_rank_is_lost_after_the_deadline_and_not_before() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(2, DEADLINE, start);
        assert_eq!(pass(&mut watchdog, start, DEADLINE, &[(0, 1)]), None);
        let error = pass(&mut watchdog, start + DEADLINE, DEADLINE, &[(0, 2)]).unwrap();
        assert!(error.to_string().starts_with("rank 1: silent for 2.0 s"), "{error}");
    }

    #[test]
    fn a_hung_step_is_blamed_on_the_rank_that_is_behind() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(2, DEADLINE, start);
        watchdog.set_busy(true, start);
        let error = pass(&mut watchdog, start, DEADLINE * 3, &[(0, 55), (1, 54)]).unwrap();
        assert_eq!(
            error.to_string(),
            "rank 1: no progress for 2.0 s, last heard of in step 9, layers.3.attn.attend"
        );
    }

    #[test]
    fn an_idle_fleet_need_not_progress() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(2, DEADLINE, start);
        assert_eq!(pass(&mut watchdog, start, DEADLINE * 5, &[(0, 5), (1, 5)]), None);
    }

    #[test]
    fn a_coordinator_that_slept_blames_nobody() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(2, DEADLINE, start);
        assert_eq!(watchdog.check(start + DEADLINE * 50), None);
        assert_eq!(pass(&mut watchdog, start + DEADLINE * 50, DEADLINE, &[(0, 5), (1, 5)]), None);
    }
}

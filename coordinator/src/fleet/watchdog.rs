//! Pure: who was heard of when, and who stands still while a step is in flight.
//!
//! Liveness is progress of the executing thread, not an answering socket: a heartbeat comes from a
//! thread that does not execute and says how far the one that does has come.

use std::time::{Duration, Instant};

use binfer_proto::cluster::Beat;

use super::error::FleetError;

/// What is known of one rank's progress.
#[derive(Clone, Debug)]
struct RankProgress {
    heard: Instant,
    moved: Instant,
    operations: u64,
    step: u64,
    operation: String,
}

/// Progress of all ranks.
#[derive(Debug)]
pub(super) struct Watchdog {
    deadline: Duration,
    ranks: Vec<RankProgress>,
    checked_at: Instant,
    /// Since when there is a step in flight.
    busy: Option<Instant>,
}

impl Watchdog {
    /// Everybody heard of just now. A rank that stands still for `deadline` counts as lost.
    pub(super) fn new(world: usize, deadline: Duration, now: Instant) -> Self {
        let seen = RankProgress {
            heard: now,
            moved: now,
            operations: 0,
            step: 0,
            operation: String::new(),
        };
        Self { deadline, ranks: vec![seen; world], checked_at: now, busy: None }
    }

    /// How often [`Watchdog::late`] wants to be asked.
    pub(super) fn interval(&self) -> Duration {
        (self.deadline / 8).clamp(Duration::from_millis(50), Duration::from_millis(500))
    }

    /// A message of this rank came in.
    pub(super) fn heard(&mut self, rank: usize, now: Instant) {
        self.ranks[rank].heard = now;
    }

    /// A result is progress, whatever the last heartbeat said.
    pub(super) fn moved(&mut self, rank: usize, now: Instant) {
        self.ranks[rank].moved = now;
    }

    /// A heartbeat came in.
    pub(super) fn beat(&mut self, rank: usize, beat: Beat, now: Instant) {
        let seen = &mut self.ranks[rank];
        if beat.operations != seen.operations {
            seen.moved = now;
        }
        seen.operations = beat.operations;
        seen.step = beat.step_launched;
        seen.operation = beat.operation;
    }

    /// Whether a step is in flight from now on.
    pub(super) fn busy(&mut self, busy: bool, now: Instant) {
        match (busy, self.busy) {
            (true, None) => self.busy = Some(now),
            (false, _) => self.busy = None,
            (true, Some(_)) => {}
        }
    }

    /// Where a rank was when it was last heard of, for error messages.
    pub(super) fn last(&self, rank: usize) -> String {
        let RankProgress { step, operation, .. } = &self.ranks[rank];
        match (operation.as_str(), step) {
            ("", _) => "before its first heartbeat".into(),
            (_, 0) => "before its first step".into(),
            (operation, step) => format!("last heard of in step {step}, {operation}"),
        }
    }

    /// A rank that is silent, or that stands still in a step, for longer than the deadline.
    pub(super) fn late(&mut self, now: Instant) -> Option<FleetError> {
        let asleep = now.duration_since(self.checked_at) > self.interval() * 4;
        self.checked_at = now;
        if asleep {
            // It was us who stood still (suspended, stopped): nobody could be heard meanwhile.
            self.ranks.iter_mut().for_each(|seen| (seen.heard, seen.moved) = (now, now));
            return None;
        }
        let overdue = |since: Instant| now.duration_since(since) > self.deadline;
        let seconds = self.deadline.as_secs_f32();
        let longest_silent = (0..self.ranks.len()).min_by_key(|rank| self.ranks[*rank].heard)?;
        if overdue(self.ranks[longest_silent].heard) {
            let cause = format!("silent for {seconds:.1} s, {}", self.last(longest_silent));
            return Some(FleetError::worker(longest_silent, cause));
        }
        let busy = self.busy?;
        let stuck = |seen: &RankProgress| overdue(seen.moved.max(busy));
        if !self.ranks.iter().all(stuck) {
            return None;
        }
        // Ranks run the same operations: the one that entered the fewest is the one waited for.
        let behind = (0..self.ranks.len()).min_by_key(|rank| self.ranks[*rank].operations)?;
        let cause = format!("no progress for {seconds:.1} s, {}", self.last(behind));
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
                watchdog.heard(*rank, from + passed);
                watchdog.beat(*rank, beat, from + passed);
            }
            if let Some(error) = watchdog.late(from + passed) {
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
        watchdog.busy(true, start);
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
        assert_eq!(watchdog.late(start + DEADLINE * 50), None);
        assert_eq!(pass(&mut watchdog, start + DEADLINE * 50, DEADLINE, &[(0, 5), (1, 5)]), None);
    }
}

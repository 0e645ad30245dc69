//! Pure: collects the results of all ranks for a step and compares them.
//!
//! A result is matched by epoch and step with the plan that was sent. Only a step on which all
//! ranks agree comes out.

use std::collections::{BTreeMap, VecDeque};

use binfer_proto::{Epoch, StepId, StepResult};

use super::error::FleetError;

/// The results of the steps in flight.
#[derive(Debug)]
pub(super) struct ResultAggregator {
    world: usize,
    steps: VecDeque<PendingStep>,
}

#[derive(Debug)]
struct PendingStep {
    epoch: Epoch,
    step: StepId,
    plan_hash: u64,
    results: Vec<Option<StepResult>>,
}

impl ResultAggregator {
    /// An aggregator for `world` ranks with nothing in flight.
    pub(super) fn new(world: usize) -> Self {
        Self { world, steps: VecDeque::new() }
    }

    /// A plan was sent to all ranks.
    pub(super) fn sent(&mut self, epoch: Epoch, step: StepId, plan_hash: u64) {
        let results = (0..self.world).map(|_| None).collect();
        self.steps.push_back(PendingStep { epoch, step, plan_hash, results });
    }

    /// How many plans have not been answered by all ranks.
    pub(super) fn in_flight(&self) -> usize {
        self.steps.len()
    }

    /// Takes a rank's result. Returns the result of rank 0 once all ranks agree on the oldest step.
    pub(super) fn take(
        &mut self,
        rank: usize,
        result: StepResult,
    ) -> Result<Option<StepResult>, FleetError> {
        let step = result.step;
        let found = self
            .steps
            .iter_mut()
            .find(|pending| (pending.epoch, pending.step) == (result.epoch, step));
        let Some(slot) = found.and_then(|pending| pending.results.get_mut(rank)) else {
            return Err(FleetError::worker(
                rank,
                format!("a result of step {step}, which is not in flight"),
            ));
        };
        if slot.replace(result).is_some() {
            return Err(FleetError::worker(rank, format!("a second result of step {step}")));
        }
        let complete =
            self.steps.front().is_some_and(|first| first.results.iter().all(Option::is_some));
        if !complete {
            return Ok(None);
        }
        self.steps.pop_front().map_or(Ok(None), PendingStep::agree)
    }
}

impl PendingStep {
    fn agree(self) -> Result<Option<StepResult>, FleetError> {
        let results: Vec<StepResult> = self.results.into_iter().flatten().collect();
        let hashes: Vec<u64> = results.iter().map(|result| result.plan_hash).collect();
        let digests: Vec<u64> = results.iter().map(|result| result.digest).collect();
        if hashes.iter().any(|hash| *hash != self.plan_hash) {
            let odd = ranks_that(&hashes, |hash| hash != self.plan_hash);
            let values = format!("sent {:016x}; {}", self.plan_hash, listed(&hashes));
            return Err(FleetError::Disagreement {
                step: self.step,
                who: format!("{odd} ran another plan"),
                what: "plan hash",
                values,
            });
        }
        if digests.iter().any(|digest| *digest != digests[0]) {
            return Err(FleetError::Disagreement {
                step: self.step,
                who: minority(&digests),
                what: "digest",
                values: listed(&digests),
            });
        }
        Ok(results.into_iter().next())
    }
}

/// Names the ranks that disagree with the majority, if there is a majority.
fn minority(digests: &[u64]) -> String {
    let mut votes = BTreeMap::new();
    digests.iter().for_each(|digest| *votes.entry(digest).or_insert(0) += 1);
    match votes.iter().find(|(_, count)| **count * 2 > digests.len()) {
        Some((majority, _)) => {
            format!(
                "{} disagrees with the others",
                ranks_that(digests, |digest| digest != **majority)
            )
        }
        None => "ranks disagree".into(),
    }
}

fn ranks_that(values: &[u64], odd: impl Fn(u64) -> bool) -> String {
    let ranks: Vec<String> = values
        .iter()
        .enumerate()
        .filter(|(_, value)| odd(**value))
        .map(|(rank, _)| rank.to_string())
        .collect();
    format!("rank {}", ranks.join(", "))
}

fn listed(values: &[u64]) -> String {
    let listed: Vec<String> = values
        .iter()
        .enumerate()
        .map(|(rank, value)| format!("rank {rank} {value:016x}"))
        .collect();
    listed.join(", ")
}

#[cfg(test)]
mod tests {
    use binfer_proto::{Rank, ReplicaId};

    use super::*;

    fn result(rank: u32, step: u64, plan_hash: u64, digest: u64) -> StepResult {
        StepResult {
            replica: ReplicaId(0),
            epoch: Epoch(1),
            step: StepId(step),
            rank: Rank(rank),
            plan_hash,
            digest,
            rows: Vec::new(),
            step_us: 0,
        }
    }

    fn aggregator(world: usize, steps: u64) -> ResultAggregator {
        let mut aggregator = ResultAggregator::new(world);
        (1..=steps).for_each(|step| aggregator.sent(Epoch(1), StepId(step), 100 + step));
        aggregator
    }

    #[test]
    fn a_step_comes_out_when_all_ranks_answered_and_in_order() {
        let mut aggregator = aggregator(2, 2);
        assert_eq!(aggregator.take(0, result(0, 1, 101, 7)), Ok(None));
        assert_eq!(aggregator.take(0, result(0, 2, 102, 8)), Ok(None));
        assert_eq!(aggregator.take(1, result(1, 1, 101, 7)), Ok(Some(result(0, 1, 101, 7))));
        assert_eq!(aggregator.take(1, result(1, 2, 102, 8)), Ok(Some(result(0, 2, 102, 8))));
        assert_eq!(aggregator.in_flight(), 0);
    }

    #[test]
    fn a_liar_among_three_is_named() {
        let mut aggregator = aggregator(3, 1);
        aggregator.take(0, result(0, 1, 101, 7)).unwrap();
        aggregator.take(1, result(1, 1, 101, 9)).unwrap();
        let error = aggregator.take(2, result(2, 1, 101, 7)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "step 1: rank 1 disagrees with the others: digest differs (rank 0 0000000000000007, \
             rank 1 0000000000000009, rank 2 0000000000000007)"
        );
    }

    #[test]
    fn two_that_disagree_are_both_shown() {
        let mut aggregator = aggregator(2, 1);
        aggregator.take(0, result(0, 1, 101, 7)).unwrap();
        let error = aggregator.take(1, result(1, 1, 101, 8)).unwrap_err().to_string();
        assert!(error.contains("ranks disagree") && error.contains("rank 1 0000000000000008"));
    }

    #[test]
    fn another_plan_is_named_with_what_was_sent() {
        let mut aggregator = aggregator(2, 1);
        aggregator.take(0, result(0, 1, 101, 7)).unwrap();
        let error = aggregator.take(1, result(1, 1, 55, 7)).unwrap_err().to_string();
        assert!(
            error.contains("rank 1 ran another plan") && error.contains("sent 0000000000000065")
        );
    }

    #[test]
    fn results_that_nobody_waits_for_are_refused() {
        let mut aggregator = aggregator(2, 1);
        assert!(aggregator.take(0, result(0, 3, 103, 7)).is_err());
        aggregator.take(0, result(0, 1, 101, 7)).unwrap();
        assert!(aggregator.take(0, result(0, 1, 101, 7)).is_err());
    }
}

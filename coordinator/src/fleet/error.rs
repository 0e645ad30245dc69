//! Why a fleet did not come up, or is lost. Names rank and cause; clients and operators read it.

use binfer_proto::cluster::Failed;
use binfer_proto::{Rank, StepId};

/// The fleet cannot serve (any more).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    /// A worker failed, was killed, hangs, or could not start.
    #[error("rank {rank}: {cause}")]
    Worker {
        /// Whose worker.
        rank: Rank,
        /// What happened to it, and where it was.
        cause: String,
    },
    /// Ranks computed different things from the same plan.
    #[error("step {step}: {who}: {what} differs ({values})")]
    Disagreement {
        /// The step; nothing of it reaches a client.
        step: StepId,
        /// "rank 1 disagrees with the others", or "ranks disagree" where there is no majority.
        who: String,
        /// "digest" or "plan hash".
        what: &'static str,
        /// Every rank's value.
        values: String,
    },
    /// The coordinator's own part failed.
    #[error("{0}")]
    Local(String),
}

impl FleetError {
    pub(super) fn worker(rank: usize, cause: impl Into<String>) -> Self {
        Self::Worker { rank: super::rank_id(rank), cause: cause.into() }
    }
}

/// Why a rank ended, and where; before the first step only what it was at, if anything.
pub(super) fn failure_text(failed: &Failed) -> String {
    let Failed { cause, operation, step } = failed;
    match (step, operation.as_str()) {
        (0, "idle") => cause.clone(),
        (0, _) => format!("{cause} (in {operation}, before the first step)"),
        _ => format!("{cause} (in {operation}, step {step})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_the_first_step_no_step_is_named() {
        let failed = |operation: &str, step| {
            failure_text(&Failed { cause: "no room".into(), operation: operation.into(), step })
        };
        assert_eq!(failed("idle", 0), "no room");
        assert_eq!(failed("head", 0), "no room (in head, before the first step)");
        assert_eq!(failed("head", 7), "no room (in head, step 7)");
    }
}

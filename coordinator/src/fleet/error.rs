//! Why the workers did not start, or why they are lost. Clients and operators read these texts.

use binfer_proto::cluster::Failed;
use binfer_proto::{Rank, StepId};

use super::rank::rank_id;

/// The workers cannot serve, or can no longer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    /// A worker failed, was killed, hangs, or did not start.
    #[error("rank {rank}: {cause}")]
    Worker {
        /// The rank of that worker.
        rank: Rank,
        /// What happened to the worker, and where it was.
        cause: String,
    },
    /// Ranks computed different things from the same plan.
    #[error("step {step}: {who}: {what} differs ({values})")]
    Disagreement {
        /// The step, of which nothing reaches a client.
        step: StepId,
        /// "rank 1 disagrees with the others", or "ranks disagree" where there is no majority.
        who: String,
        /// "digest" or "plan hash".
        what: &'static str,
        /// Every rank's value.
        values: String,
    },
    /// The system refused the coordinator something that it needs.
    #[error("{0}")]
    System(String),
    /// A bug of the coordinator's own.
    #[error("{0}; this is a bug of binfer")]
    Defect(String),
}

impl FleetError {
    pub(super) fn worker(rank: usize, cause: impl Into<String>) -> Self {
        Self::Worker { rank: rank_id(rank), cause: cause.into() }
    }
}

/// Why a worker failed and in which operation of which step. Before the first step there is no step
/// to name.
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

//! Faults that the simulator must find, each at the place where a developer could make it.
//!
//! Outside tests `planted` is a constant `false` and the faults are not compiled in.

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// Blocks of a sequence that will not run again are freed in the plan of its last row.
    BlockFreedEarly,
    /// A decode row starts one position late.
    StartOffByOne,
    /// A token sampled past the end token is delivered.
    OverrunDelivered,
    /// A result goes to the sequence that has the slot now.
    ResultTakenBySlot,
    /// A preempted sequence does not take the token that was in flight.
    PreemptedLosesToken,
    /// A window frees the block that it still touches.
    WindowFreesTooMuch,
    /// A cancelled request gives its blocks back twice.
    CancelFreesTwice,
    /// `Rows::Same` whenever the number of rows is the same.
    SameRowsUnchecked,
    /// One token more than `max_tokens`.
    MaxTokensOverrun,
    /// A chunk in the middle of a prompt skips a token.
    ChunkSkipsToken,
    /// A hit in the prefix cache does not count as an owner.
    HitWithoutReference,
    /// A block is shared in the plan that writes it.
    SharedWithinPlan,
    /// Requests share blocks across salts.
    SaltIgnored,
    /// A block is found by its own tokens, whatever came before it.
    ParentIgnored,
    /// Of a block only the first half of the tokens is compared.
    HalfCompared,
    /// A hit may cover the last known token, so that nothing is left to run.
    LastTokenCached,
}

#[cfg(not(test))]
impl super::Scheduler {
    pub(super) const fn planted(&self, _: Bug) -> bool {
        false
    }
}

#[cfg(test)]
impl super::Scheduler {
    pub(super) fn planted(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }
}

//! What a rank answers to a plan.

use smallvec::SmallVec;

use crate::ids::{Epoch, Rank, ReplicaId, StepId, Token};

/// The outcome of one step on one rank.
#[derive(Clone, Debug, PartialEq)]
pub struct StepResult {
    /// The replica.
    pub replica: ReplicaId,
    /// The replica's life in which the plan was made.
    pub epoch: Epoch,
    /// The plan's step.
    pub step: StepId,
    /// The worker that answers.
    pub rank: Rank,
    /// Hash of the expanded plan that this rank ran.
    pub plan_hash: u64,
    /// Hash of what it computed: sampled tokens and the hidden states that they came from.
    pub digest: u64,
    /// One per row of the plan, in its order. Empty on all ranks but rank 0.
    pub rows: Vec<RowResult>,
    /// Time from launch to result on this rank, in microseconds.
    pub step_us: u32,
}

/// Sampled tokens of one row. They lie in the row itself, without an allocation: hundreds of rows a
/// step pass through the serve loop.
pub type Tokens = SmallVec<[Token; 4]>;

/// The outcome of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct RowResult {
    /// Whether the numbers are usable.
    pub status: RowStatus,
    /// Sampled tokens; none for a row without outputs.
    pub tokens: Tokens,
    /// Logprobs that the plan asked for: the sampled token's, then those of the most likely tokens,
    /// the likeliest first.
    pub logprobs: Vec<Logprob>,
}

/// How likely a token was: ln of its probability in the raw distribution, before biases, penalties,
/// temperature and filters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logprob {
    /// The token.
    pub token: Token,
    /// Its logarithm, at most 0.
    pub logprob: f32,
}

/// Whether a row's logits are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowStatus {
    /// All of them are.
    Ok,
    /// At least one is infinite or NaN. The row's request fails, the others go on.
    NonFinite,
}

//! Requests and what becomes of them: the scheduler's types, apart from plans and results.
//!
//! Deliberately absent: text. A request arrives as tokens and leaves as tokens.

use std::sync::Arc;

use binfer_proto::{Bias, Epoch, Logprob, Sampling, SamplingError, StepId, Token, Tokens};

use super::cache_miss::{CacheMiss, CacheMisses};
use super::salt::TenantId;

/// Number of a request, or of one of its `n` choices. The caller chooses it and never uses it
/// twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A time in milliseconds, on the caller's clock, which never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

/// A prompt to continue.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its number, which deliveries carry.
    pub id: RequestId,
    /// The tokens to continue, at least one.
    pub prompt: Vec<Token>,
    /// Most tokens to generate; `context_max` may end it earlier.
    pub max_tokens: u32,
    /// Tokens that end it. Shared, because most requests have those of the model.
    pub end_ids: Arc<[Token]>,
    /// Whether end tokens are tokens like any other.
    pub ignore_eos: bool,
    /// How its tokens are sampled.
    pub sampling: Sampling,
    /// Added to logits; by rising token id.
    pub biases: Vec<Bias>,
    /// Logprobs that come with each token, see [`binfer_proto::Row::logprobs`].
    pub logprobs: u8,
    /// Seed of its random numbers.
    pub seed: u64,
    /// Which of the `n` choices of one prompt it is.
    pub choice: u32,
    /// Who asks. Requests share cached blocks only with requests of the same tenant,
    pub tenant: TenantId,
    /// the same digest of weights,
    pub weights: u64,
    /// and the same text, which the client chose.
    pub cache_salt: Option<Arc<str>>,
    /// The time at which it fails if it never ran.
    pub queue_deadline: Option<Tick>,
    /// Keeps it from ending early.
    pub least: Option<LeastTokens>,
}

/// How long an answer becomes at least: the first tokens are sampled among allowed ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeastTokens {
    /// So many tokens.
    pub tokens: u32,
    /// The tokens that they may be, as [`binfer_proto::Mask::bits`] of the model's vocabulary.
    pub allowed: Arc<[u8]>,
}

/// Why a request is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It sampled an end token, which is in its journal and counted, but not delivered.
    Stop,
    /// It reached `max_tokens` or `context_max`.
    Length,
    /// The text stage found a stop string: the one with this index in the request's list.
    StopString(usize),
    /// The caller gave it up.
    Cancelled,
    /// It failed, and others go on.
    Failed(FailCause),
}

/// Why one request fails while others go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FailCause {
    /// Its logits are infinite or NaN.
    #[error("the model computed values that are not finite")]
    NonFinite,
    /// It waited in the queue past its deadline.
    #[error("the request waited in the queue past its deadline")]
    QueueTimeout,
}

/// Why a request is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too many requests or prompt tokens wait already.
    #[error("the queue is full: {requests} requests with {tokens} tokens wait")]
    QueueFull {
        /// Waiting requests.
        requests: usize,
        /// Their prompt tokens.
        tokens: usize,
    },
    /// The prompt leaves no tokens for an answer.
    #[error("the prompt has {prompt} tokens, and prompt and answer may have {context_max}")]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens that a sequence may have.
        context_max: usize,
    },
    /// Even alone the sequence would not fit into the pool of a KV group.
    #[error("prompt and answer need {needed} blocks of KV group {kv_group}, which has {blocks}")]
    NeverFits {
        /// Index of the KV group.
        kv_group: usize,
        /// Blocks that the longest answer needs.
        needed: usize,
        /// Blocks of the pool.
        blocks: usize,
    },
    /// The prompt has no token.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The answer may have no token.
    #[error("max_tokens must be above 0")]
    NothingToGenerate,
    /// A sampling parameter is out of range.
    #[error(transparent)]
    Sampling(SamplingError),
    /// The request's number is in use.
    #[error("request {} exists already", .0.0)]
    Duplicate(RequestId),
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining,
}

impl Refused {
    /// Whether the request is at fault, so that the same request would be refused again.
    pub fn is_client_error(&self) -> bool {
        !matches!(self, Self::QueueFull { .. } | Self::Draining)
    }
}

/// What a step, or the end, brings one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The request.
    pub id: RequestId,
    /// Tokens newly in its journal, without an end token.
    pub tokens: Tokens,
    /// For each of these tokens as many logprobs as the request asked for.
    pub logprobs: Vec<Logprob>,
    /// Why the request is over; set on its last delivery alone.
    pub finish: Option<Finish>,
    /// Its token counts so far.
    pub usage: Usage,
    /// The token that ended it, which is not among `tokens`.
    pub end_token: Option<Token>,
}

/// Token counts of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt: u32,
    /// Sampled tokens, an end token included.
    pub generated: u32,
    /// Prompt tokens that came out of the prefix cache.
    pub cached: u32,
    /// Why they are not more; `None` if the request never ran.
    pub cache_miss: Option<CacheMiss>,
}

/// Why a step's result is refused. The scheduler's state is as before, and the step has failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AbsorbError {
    /// The result is of another replica.
    #[error("a result of replica {got}, not {want}")]
    Replica {
        /// The replica in the result.
        got: u32,
        /// The scheduler's replica.
        want: u32,
    },
    /// The result is of an epoch that has not begun.
    #[error("a result of epoch {got} in epoch {now}")]
    Epoch {
        /// The epoch in the result.
        got: Epoch,
        /// The current one.
        now: Epoch,
    },
    /// The result is not of the oldest step in flight.
    #[error("a result of step {got}, awaited is {want:?}")]
    Step {
        /// The step in the result.
        got: StepId,
        /// The oldest step in flight.
        want: Option<StepId>,
    },
    /// The workers ran another plan.
    #[error("step {step}: plan hash {got:016x}, sent was {want:016x}")]
    PlanHash {
        /// The step.
        step: StepId,
        /// The hash in the result.
        got: u64,
        /// Hash of the plan that was sent.
        want: u64,
    },
    /// The result has not one row result for each row.
    #[error("step {step}: {got} row results for {want} rows")]
    RowCount {
        /// The step.
        step: StepId,
        /// Row results.
        got: usize,
        /// Rows of the plan.
        want: usize,
    },
    /// A row has not the number of tokens that the plan asked for.
    #[error("step {step}: row {row} has {got} tokens instead of {want}")]
    TokenCount {
        /// The step.
        step: StepId,
        /// Index of the row.
        row: usize,
        /// Tokens in the row result.
        got: usize,
        /// Outputs that the plan asked for.
        want: usize,
    },
    /// A row has not the number of logprobs that the plan asked for.
    #[error("step {step}: row {row} has {got} logprobs instead of {want}")]
    LogprobCount {
        /// The step.
        step: StepId,
        /// Index of the row.
        row: usize,
        /// Logprobs in the row result.
        got: usize,
        /// Logprobs that the plan asked for.
        want: usize,
    },
}

/// The state of a scheduler in numbers, for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Sequences that hold a slot.
    pub running: usize,
    /// Sequences that wait, preempted ones included.
    pub waiting: usize,
    /// Blocks that can be taken, by KV group; idle cached ones are included.
    pub blocks_free: Vec<usize>,
    /// Cached ones among these blocks, by KV group.
    pub blocks_cached: Vec<usize>,
    /// Events since the start.
    pub counters: Counters,
}

/// Numbers of events since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sequences that were preempted.
    pub preemptions: u64,
    /// Sequences that were preempted with a step in flight.
    pub preemptions_in_flight: u64,
    /// Sequences that were preempted so often that they never will be again.
    pub pinned: u64,
    /// Requests that were cancelled with a step in flight.
    pub cancels_in_flight: u64,
    /// Sampled tokens that were dropped because an end token or a stop string had ended the
    /// request.
    pub overruns_dropped: u64,
    /// Rows that found no free block.
    pub exhausted: u64,
    /// Rows with a part of a prompt that does not reach its end.
    pub prompts_split: u64,
    /// Blocks that were given back because they lay behind a window.
    pub window_blocks_freed: u64,
    /// Sequences that got cached blocks.
    pub prefix_hits: u64,
    /// Tokens in the cached blocks that sequences got.
    pub prefix_tokens_hit: u64,
    /// Why sequences, when they first ran, got no more.
    pub prefix_misses: CacheMisses,
}

//! What goes into the scheduler and what comes out, apart from plans and results.
//!
//! Deliberately absent: text. A request arrives as tokens and leaves as tokens.

use std::sync::Arc;

use binfer_proto::{Bias, Epoch, Logprob, Sampling, SamplingError, StepId, Token, Tokens};

/// A request, or one of its `n` choices; chosen by the caller, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Milliseconds on a clock that never goes back, read by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

/// A prompt to continue.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its name in deliveries.
    pub id: RequestId,
    /// At least one token.
    pub prompt: Vec<Token>,
    /// Tokens to generate at most; `context_max` may end it earlier.
    pub max_tokens: u32,
    /// Tokens that end it; shared, because they are the model's.
    pub end_ids: Arc<[Token]>,
    /// Treat end tokens like any other.
    pub ignore_eos: bool,
    /// How its tokens are drawn.
    pub sampling: Sampling,
    /// Added to logits; by rising token id.
    pub biases: Vec<Bias>,
    /// Logprobs to deliver with a token, see `Row::logprobs`.
    pub logprobs: u8,
    /// Seed of its draws.
    pub seed: u64,
    /// Which of `n` choices it is.
    pub choice: u32,
    /// Requests share cached blocks only within a salt: weights digest, adapter, tenant.
    pub salt: u64,
    /// It fails if it still waits at this time.
    pub queue_deadline: Option<Tick>,
}

/// Why a request is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It sampled an end token: in the journal and in `generated`, but not delivered.
    Stop,
    /// It reached `max_tokens` or `context_max`.
    Length,
    /// The text stage found a stop string.
    StopString,
    /// Nobody wants it any more.
    Cancelled,
    /// It cannot go on; others do.
    Failed(FailCause),
}

/// Why one request fails while others go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FailCause {
    /// The model gave infinite or NaN logits.
    #[error("the model computed values that are not finite")]
    NonFinite,
    /// It waited past its deadline.
    #[error("the request waited in the queue past its deadline")]
    QueueTimeout,
}

/// Why a request is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too many requests, or prompt tokens, wait already.
    #[error("the queue is full: {requests} requests with {tokens} tokens wait")]
    QueueFull {
        /// Waiting requests.
        requests: usize,
        /// Their prompt tokens.
        tokens: usize,
    },
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {prompt} tokens, and prompt and answer may have {context_max}")]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens that a sequence may have.
        context_max: usize,
    },
    /// Even alone it would not fit into the pool.
    #[error("prompt and answer need {needed} blocks of KV group {kv_group}, which has {blocks}")]
    NeverFits {
        /// Index of the KV group.
        kv_group: usize,
        /// Blocks that the longest answer needs.
        needed: usize,
        /// Blocks of the pool.
        blocks: usize,
    },
    /// A prompt of no tokens.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// An answer of no tokens.
    #[error("max_tokens must be above 0")]
    NothingToGenerate,
    /// Sampling parameters out of range.
    #[error(transparent)]
    Sampling(SamplingError),
    /// The id is in use.
    #[error("request {} exists already", .0.0)]
    Duplicate(RequestId),
    /// The server is going down.
    #[error("the server is shutting down")]
    Draining,
}

impl Refused {
    /// Whether the request itself is at fault, so that trying again cannot help.
    pub fn is_client_error(&self) -> bool {
        !matches!(self, Self::QueueFull { .. } | Self::Draining)
    }
}

/// News of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The request.
    pub id: RequestId,
    /// Tokens newly in its journal, without an end token.
    pub tokens: Tokens,
    /// As many of each of these tokens as the request wants.
    pub logprobs: Vec<Logprob>,
    /// Set on its last delivery.
    pub finish: Option<Finish>,
    /// Counts so far.
    pub usage: Usage,
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
}

/// Why a step's result cannot be taken. The state is as before; the step has failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AbsorbError {
    /// The result is of another group.
    #[error("a result of replica {got}, not {want}")]
    Replica {
        /// The group in the result.
        got: u32,
        /// Ours.
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
    /// Results come in the order of their plans, once each.
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
    /// Not one result a row.
    #[error("step {step}: {got} row results for {want} rows")]
    RowCount {
        /// The step.
        step: StepId,
        /// Row results.
        got: usize,
        /// Rows of the plan.
        want: usize,
    },
    /// A row with an output has one token, one without has none.
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
    /// A row with an output has the logprobs that were asked for.
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

/// A look at the scheduler, for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Sequences that hold a slot.
    pub running: usize,
    /// Sequences that wait, preempted ones included.
    pub waiting: usize,
    /// Blocks that can be taken, per KV group; cached ones that nobody uses included.
    pub blocks_free: Vec<usize>,
    /// Of these, blocks that hold cached content, per KV group.
    pub blocks_cached: Vec<usize>,
    /// What happened since the start.
    pub counters: Counters,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sequences that lost their blocks to a more urgent one.
    pub preemptions: u64,
    /// Of these, with a step in flight.
    pub preemptions_in_flight: u64,
    /// Sequences that lost them so often that they never will again.
    pub pinned: u64,
    /// Requests that were cancelled with a step in flight.
    pub cancels_in_flight: u64,
    /// Sampled tokens dropped because an end token or a stop string had ended the request.
    pub overruns_dropped: u64,
    /// Rows that found no free block.
    pub exhausted: u64,
    /// Rows that hold a part of a prompt which others continue.
    pub prompts_split: u64,
    /// Blocks freed because they lay behind a window.
    pub window_blocks_freed: u64,
    /// Sequences that began with cached blocks.
    pub prefix_hits: u64,
    /// Tokens in these blocks.
    pub prefix_tokens_hit: u64,
}

//! The plan of one step: a complete decision that leaves a worker nothing to choose.
//!
//! Workers are replicated state machines: they apply `close`, `open` and `blocks`, in this order,
//! and then run `rows`. How a token is sampled is in `sampling.rs`, checks are in `check.rs`, the
//! hash is in `hash.rs` and the wire format in `wire.rs`.

use crate::ids::{BlockId, Epoch, KvGroup, ReplicaId, SlotId, StepId, Token};
use crate::sampling::{Bias, Sampling};

/// What every rank does in one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The replica that this plan is for.
    pub replica: ReplicaId,
    /// The replica's current life.
    pub epoch: Epoch,
    /// This plan's number within the epoch.
    pub step: StepId,
    /// Slots whose sequences are over. They are closed before any slot is opened.
    pub close: Vec<SlotId>,
    /// Slots that take a new sequence; a slot in `close` may be opened again here.
    pub open: Vec<Open>,
    /// Blocks appended to block tables.
    pub blocks: Vec<NewBlocks>,
    /// What runs.
    pub rows: Rows,
    /// Whether sampling waits for the step's [`crate::Masks`].
    pub masked: bool,
}

/// A plan with its hash, made together so that nobody computes the hash twice or forgets it.
#[derive(Clone, Debug, PartialEq)]
pub struct HashedPlan {
    /// The plan, as it is sent.
    pub plan: Plan,
    /// [`Plan::hash`] over its expanded rows: every rank must answer with the same.
    pub hash: u64,
}

/// A sequence that takes a slot.
#[derive(Clone, Debug, PartialEq)]
pub struct Open {
    /// The slot.
    pub slot: SlotId,
    /// How its tokens are sampled.
    pub sampling: Sampling,
    /// Seed of its random numbers.
    pub seed: u64,
    /// Which of a request's `n` choices it is. Choices of one request use different random numbers.
    pub choice: u32,
    /// Tokens of the prompt; those behind it were sampled.
    pub prompt_len: u32,
    /// All tokens so far if a penalty needs them, otherwise none.
    pub history: Vec<Token>,
    /// Added to logits; by rising token id, at most [`crate::BIASES_MAX`].
    pub biases: Vec<Bias>,
}

/// Most likely tokens that a row may ask for beside the sampled one, at most: OpenAI's limit.
pub const TOP_LOGPROBS_MAX: u8 = 20;

/// Blocks appended to one slot's block table of one KV group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBlocks {
    /// The slot.
    pub slot: SlotId,
    /// The KV group whose table grows.
    pub kv_group: KvGroup,
    /// The blocks, in table order.
    pub ids: Vec<BlockId>,
}

/// The rows of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Rows {
    /// The rows of the last step in the same order, each one token further: steady decode.
    Same,
    /// Decode rows first, then chunks of prompts.
    List(Vec<Row>),
}

/// One sequence's part in a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The sequence's slot.
    pub slot: SlotId,
    /// The tokens that are fed.
    pub input: Input,
    /// Position of the first input token in the sequence.
    pub start: u32,
    /// The inputs after which a token is sampled.
    pub outputs: Outputs,
    /// Logprobs that come with a sampled token: 0 for none, otherwise 1 for its own and 1 more for
    /// each of the most likely tokens.
    pub logprobs: u8,
}

/// Input of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// These tokens, at least one.
    Tokens(Vec<Token>),
    /// The slot's last sampled token, whichever step sampled it.
    LastSample,
}

/// The inputs of a row after which a token is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// No input: a chunk in the middle of a prompt.
    None,
    /// The last input.
    Last,
    /// Every input, for logprobs of a prompt. Refused by [`Plan::check`] in this version.
    All,
}

impl Input {
    /// Number of tokens fed.
    pub fn count(&self) -> usize {
        match self {
            Self::Tokens(tokens) => tokens.len(),
            Self::LastSample => 1,
        }
    }
}

impl Row {
    /// Position behind its last input token, where the sequence's next row starts.
    pub fn end(&self) -> u32 {
        self.start.saturating_add(u32::try_from(self.input.count()).unwrap_or(u32::MAX))
    }
}

/// Rows of the step after `last` when the plan says [`Rows::Same`]: each feeds the token that it
/// sampled, one position further.
pub fn expand_rows(last: &[Row]) -> Vec<Row> {
    last.iter()
        .map(|row| Row { input: Input::LastSample, start: row.end(), ..row.clone() })
        .collect()
}

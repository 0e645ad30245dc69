//! The plan of one step: a complete decision that leaves a worker nothing to choose.
//!
//! Workers are replicated state machines; they apply `close`, `open`, `blocks` and then run `rows`.
//! Checks live in `check.rs`, the hash in `hash.rs`, the wire format in `wire.rs`.

use crate::ids::{BlockId, Epoch, GroupId, KvGroup, SlotId, StepId, Token};

/// What every rank does in one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The replica that this plan is for.
    pub group: GroupId,
    /// The replica's current life.
    pub epoch: Epoch,
    /// This plan's number within the epoch.
    pub step: StepId,
    /// Slots whose sequences are over. Applied first.
    pub close: Vec<SlotId>,
    /// Slots that take a new sequence; a slot in `close` may be opened again here.
    pub open: Vec<Open>,
    /// Blocks appended to block tables.
    pub blocks: Vec<BlockGrant>,
    /// What runs.
    pub rows: Rows,
    /// Sampling waits for the step's [`crate::Masks`].
    pub masked: bool,
}

/// A sequence that takes a slot.
#[derive(Clone, Debug, PartialEq)]
pub struct Open {
    /// The slot.
    pub slot: SlotId,
    /// How its tokens are drawn.
    pub sampling: Sampling,
    /// Seed of its random numbers.
    pub seed: u64,
    /// Which of `n` choices it is: choices of one request draw different numbers.
    pub choice: u32,
    /// Tokens of the prompt; what follows was sampled.
    pub prompt_len: u32,
    /// All tokens so far, only where a penalty needs them.
    pub history: Vec<Token>,
    /// Added to logits; by rising token id, at most [`BIASES_MAX`].
    pub biases: Vec<Bias>,
    /// LoRA adapter; 0 is none.
    pub adapter: u32,
}

/// Biases of a sequence at most, as OpenAI has it.
pub const BIASES_MAX: usize = 300;
/// Most likely tokens that come with a drawn one at most, as OpenAI has it.
pub const TOP_LOGPROBS_MAX: u8 = 20;

/// What is added to the logit of one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bias {
    /// The token.
    pub token: Token,
    /// From -100 to 100.
    pub value: f32,
}

impl Bias {
    /// The same bias with its value [`canonical`].
    #[must_use]
    pub fn canonical(self) -> Self {
        Self { token: self.token, value: canonical(self.value) }
    }
}

/// A float of a request as plans carry it: zero has no sign, and a number too small to be normal
/// (below 1.2e-38), which a device may take for zero, is zero. Infinities and NaN stay as they are,
/// for the checks to refuse.
pub(crate) fn canonical(value: f32) -> f32 {
    if value.abs() < f32::MIN_POSITIVE { 0.0 } else { value }
}

/// How a token is chosen from logits. Penalties and filters of value "off" cost nothing.
///
/// In this order, as vLLM's sampler documents it (0.22, `vllm.v1.sample.sampler`): biases
/// ([`Open::biases`]), repetition penalty, frequency penalty, presence penalty; temperature; min-p,
/// top-k, top-p.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token; otherwise logits are divided by this.
    pub temperature: f32,
    /// Keep the `top_k` most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this share as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides the logits above 0 of tokens in prompt and answer, and multiplies those below;
    /// 1 is off.
    pub repetition_penalty: f32,
    /// Taken from the logits of tokens in the answer; 0 is off.
    pub presence_penalty: f32,
    /// Taken from the logits of tokens in the answer, as often as they occur there; 0 is off.
    pub frequency_penalty: f32,
}

impl Sampling {
    /// The most likely token, always.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
    };

    /// The same parameters with every float [`canonical`].
    pub(crate) fn canonical(self) -> Self {
        let Self {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
        } = self;
        Self {
            temperature: canonical(temperature),
            top_k,
            top_p: canonical(top_p),
            min_p: canonical(min_p),
            repetition_penalty: canonical(repetition_penalty),
            presence_penalty: canonical(presence_penalty),
            frequency_penalty: canonical(frequency_penalty),
        }
    }

    /// Whether the tokens so far matter.
    pub fn penalises(&self) -> bool {
        let penalties = |s: &Self| [s.repetition_penalty, s.presence_penalty, s.frequency_penalty];
        penalties(self) != penalties(&Self::GREEDY)
    }
}

/// Blocks appended to one slot's table of one KV group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockGrant {
    /// The slot.
    pub slot: SlotId,
    /// The table.
    pub kv_group: KvGroup,
    /// In table order.
    pub ids: Vec<BlockId>,
}

/// The rows of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Rows {
    /// The rows of the last step in the same order, each one token on: steady decode.
    Same,
    /// Decode rows first, then chunks of prompts.
    List(Vec<Row>),
}

/// One sequence's part in a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The sequence.
    pub slot: SlotId,
    /// What is fed.
    pub input: Input,
    /// Where the first input token lies in the sequence.
    pub start: Start,
    /// For which inputs the next token is sampled.
    pub outputs: Outputs,
    /// Draft tokens to verify; not in version one.
    pub draft: u8,
    /// How many logprobs to return of a drawn token: none, or its own and those of so many less one
    /// most likely tokens.
    pub logprobs: u8,
}

/// Input of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// These tokens, at least one.
    Tokens(Vec<Token>),
    /// The slot's last sampled token, whichever step made it.
    LastSample,
}

/// Where a row begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At this position.
    At(u32),
    /// Right after the slot's last written position.
    AfterLast,
}

/// Which inputs of a row get an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// None: a chunk in the middle of a prompt.
    None,
    /// The last one.
    Last,
    /// Each; not in version one.
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

/// Rows of the step after `last` when the plan says [`Rows::Same`]: each feeds the token that it
/// sampled, one position on.
pub fn expand_rows(last: &[Row]) -> Vec<Row> {
    last.iter()
        .map(|row| Row {
            input: Input::LastSample,
            start: match row.start {
                Start::At(position) => Start::At(
                    position.saturating_add(u32::try_from(row.input.count()).unwrap_or(u32::MAX)),
                ),
                Start::AfterLast => Start::AfterLast,
            },
            ..row.clone()
        })
        .collect()
}

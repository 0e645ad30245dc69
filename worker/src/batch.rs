//! A step's inputs as arrays: a flat token matrix, decode rows first, then chunks of prompts.
//!
//! It is pure data, packed once per step by `slots.rs` and uploaded once. Nothing here depends on a
//! sampled token: a row that continues its own sample says so, and the device knows the token.

use binfer_proto::{Bias, BlockId, Sampling, SlotId, Token};

/// Where an input token comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenInput {
    /// A token that the plan knows.
    Known(Token),
    /// The last sampled token of this slot.
    LastSample(SlotId),
}

/// One sequence's tokens in the flat matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchRow {
    /// The sequence.
    pub slot: SlotId,
    /// Index of its first token in the flat matrix.
    pub first: usize,
    /// Number of its tokens.
    pub count: usize,
    /// Position of its first token in the sequence.
    pub start: usize,
}

/// One token to sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchOutput {
    /// Index of the input token whose logits are wanted.
    pub token: usize,
    /// The sequence that gets the sample.
    pub slot: SlotId,
    /// How to sample it.
    pub sampling: Sampling,
    /// Seed of the sequence.
    pub seed: u64,
    /// Choice of the sequence.
    pub choice: u32,
    /// Position that the sampled token will have.
    pub position: u32,
    /// Biases of the slot.
    pub biases: usize,
    /// Logprobs to give: 0 for none, else one for the sampled token and the others for the most
    /// likely tokens.
    pub logprobs: u8,
}

impl BatchOutput {
    /// Says whether penalties or biases change its logits.
    pub fn is_adjusted(&self) -> bool {
        self.biases > 0 || self.sampling.penalises()
    }
}

/// What a slot is opened with whose logits are changed by penalties or biases.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotTokens {
    /// The slot.
    pub slot: SlotId,
    /// Tokens of `history` that are the prompt. The others were sampled.
    pub prompt_len: usize,
    /// All tokens so far; empty where no penalty needs them.
    pub history: Vec<Token>,
    /// Biases by rising token id.
    pub biases: Vec<Bias>,
}

/// Blocks that a sequence's block table gets in this step: its entries from `first` on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchBlocks {
    /// The sequence.
    pub slot: SlotId,
    /// The KV group whose table it is.
    pub kv_group: usize,
    /// Index of the first entry; 0 where the slot was just opened.
    pub first: usize,
    /// The blocks.
    pub ids: Vec<BlockId>,
}

/// Inputs of one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Slots that are opened and whose logits are changed by penalties or biases.
    pub opened: Vec<SlotTokens>,
    /// What changes in block tables. Backends keep the tables from step to step.
    pub new_blocks: Vec<BatchBlocks>,
    /// One per input token.
    pub tokens: Vec<TokenInput>,
    /// Positions, one per input token.
    pub positions: Vec<u32>,
    /// One per sequence, in the order of their tokens.
    pub rows: Vec<BatchRow>,
    /// The tokens to sample.
    pub outputs: Vec<BatchOutput>,
    /// Sampling waits for token masks.
    pub masked: bool,
}

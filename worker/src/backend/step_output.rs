//! What becomes of a step on a device: who does its work, its ticket, its outcome.

use binfer_proto::{Logprob, Token};

/// How a step's operations reach the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepMode {
    /// The caller calls the operations one by one.
    Eager,
    /// The device does all operations, out of a CUDA graph.
    Graph,
}

/// A step that was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What came of one sampled row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// The token; meaningless where `finite` is false.
    pub token: Token,
    /// Whether every logit of the row was a number.
    pub finite: bool,
}

/// A step's outcome, in the order of the batch's outputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepOutcome {
    /// One per output row.
    pub sampled: Vec<Sampled>,
    /// Logprobs of all finite rows that want some, one row after the other: see
    /// [`BatchOutput::logprobs`](crate::batch::BatchOutput::logprobs).
    pub logprobs: Vec<Logprob>,
    /// Hash over hidden states and tokens of the output rows, equal on all ranks.
    pub digest: u64,
    /// Times that the step noted, in nanoseconds of the device's clock: its beginning, each
    /// [`DeviceClock::stamp`](super::DeviceClock::stamp), its end. Empty unless stamps were
    /// planned.
    pub stamps_ns: Vec<u64>,
}

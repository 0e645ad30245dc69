//! A worker that computes nothing: it answers every plan with random tokens of a list.
//!
//! It keeps the rows of the last plan and returns the plan's hash, as every worker must. It has no
//! slots, no blocks and no model.

use std::time::{Duration, Instant};

use binfer_proto::{
    Outputs, Plan, Rank, Row, RowResult, RowStatus, Rows, StepResult, Token, Tokens, expand_rows,
};

/// A repeatable random number generator (xorshift, 64 bits).
#[derive(Clone, Debug)]
pub(super) struct BenchPrng(u64);

impl BenchPrng {
    /// A generator with any seed.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`, or 0 if `end` is 0.
    pub(super) fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The upper half is less than 2^32, so the product's upper half is below `end`.
        u32::try_from(((self.0 >> 32) * u64::from(end)) >> 32).unwrap_or(0)
    }
}

/// A rank that runs a script.
#[derive(Debug)]
pub(super) struct ScriptedWorker {
    /// The tokens that it answers with.
    tokens: Vec<Token>,
    prng: BenchPrng,
    rows: Vec<Row>,
    step: Duration,
    /// The rows that a step must have until all streams have joined; 0 afterwards.
    awaited: usize,
    /// When the previous step ends.
    free: Instant,
}

/// The shortest step until all streams have joined, which they could not if steps took no time.
const JOINING_STEP: Duration = Duration::from_millis(5);

impl ScriptedWorker {
    /// A worker that answers with `tokens`, and takes `step` for each step once `streams` have
    /// joined.
    pub(super) fn new(tokens: Vec<Token>, step: Duration, streams: usize) -> Self {
        let (prng, free) = (BenchPrng::new(7), Instant::now());
        Self { tokens, prng, rows: Vec::new(), step, awaited: streams, free }
    }

    /// The result of `plan`, and when a device that runs one step after the other would have it.
    pub(super) fn answer(&mut self, plan: &Plan) -> (StepResult, Instant) {
        self.rows = match &plan.rows {
            Rows::Same => expand_rows(&self.rows),
            Rows::List(rows) => rows.clone(),
        };
        let rows = self.rows.iter().map(|row| RowResult {
            status: RowStatus::Ok,
            tokens: match row.outputs {
                Outputs::None => Tokens::new(),
                Outputs::Last | Outputs::All => {
                    Tokens::from_slice(&[sample(&self.tokens, &mut self.prng)])
                }
            },
            logprobs: Vec::new(),
        });
        let result = StepResult {
            replica: plan.replica,
            epoch: plan.epoch,
            step: plan.step,
            rank: Rank(0),
            plan_hash: plan.hash(&self.rows),
            digest: plan.step.0,
            rows: rows.collect(),
            step_us: u32::try_from(self.step.as_micros()).unwrap_or(u32::MAX),
        };
        if self.rows.len() >= self.awaited {
            self.awaited = 0;
        }
        let step = if self.awaited > 0 { self.step.max(JOINING_STEP) } else { self.step };
        self.free = self.free.max(Instant::now()) + step;
        (result, self.free)
    }
}

fn sample(tokens: &[Token], prng: &mut BenchPrng) -> Token {
    let len = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
    tokens.get(prng.below(len) as usize).copied().unwrap_or(0)
}

//! The hash of a plan, over its expanded rows, so that ranks can prove that they ran the same one.
//!
//! Every struct is taken apart field by field: a field that is forgotten here does not compile.

use xxhash_rust::xxh3::Xxh3;

use crate::ids::Token;
use crate::plan::{Input, NewBlocks, Open, Outputs, Plan, Row};
use crate::sampling::{Bias, Sampling};

impl Plan {
    /// Hash of this plan with the expanded `rows` in place of its own. Every field counts.
    pub fn hash(&self, rows: &[Row]) -> u64 {
        let Self { replica, epoch, step, close, open, blocks, rows: _, masked } = self;
        let mut hasher = PlanHasher(Xxh3::new());
        hasher.number(u64::from(replica.0));
        hasher.number(u64::from(epoch.0));
        hasher.number(step.0);
        hasher.length(close.len());
        close.iter().for_each(|slot| hasher.number(u64::from(slot.0)));
        hasher.length(open.len());
        open.iter().for_each(|open| hasher.open(open));
        hasher.length(blocks.len());
        for NewBlocks { slot, kv_group, ids } in blocks {
            hasher.number(u64::from(slot.0));
            hasher.number(u64::from(kv_group.0));
            hasher.length(ids.len());
            ids.iter().for_each(|id| hasher.number(u64::from(id.0)));
        }
        hasher.length(rows.len());
        rows.iter().for_each(|row| hasher.row(row));
        hasher.number(u64::from(*masked));
        hasher.0.digest()
    }
}

struct PlanHasher(Xxh3);

impl PlanHasher {
    fn number(&mut self, value: u64) {
        self.0.update(&value.to_le_bytes());
    }

    fn length(&mut self, value: usize) {
        self.number(value as u64);
    }

    fn tokens(&mut self, tokens: &[Token]) {
        self.length(tokens.len());
        tokens.iter().for_each(|token| self.0.update(&token.to_le_bytes()));
    }

    fn open(&mut self, open: &Open) {
        let Open { slot, sampling, seed, choice, prompt_len, history, biases } = open;
        let Sampling {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
        } = sampling;
        self.number(u64::from(slot.0));
        for value in
            [temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty]
        {
            self.number(u64::from(value.to_bits()));
        }
        self.number(u64::from(*top_k));
        self.number(*seed);
        self.number(u64::from(*choice));
        self.number(u64::from(*prompt_len));
        self.tokens(history);
        self.length(biases.len());
        for Bias { token, value } in biases {
            self.number(u64::from(*token) << 32 | u64::from(value.to_bits()));
        }
    }

    fn row(&mut self, row: &Row) {
        let Row { slot, input, start, outputs, logprobs } = row;
        self.number(u64::from(slot.0));
        match input {
            Input::Tokens(tokens) => self.tokens(tokens),
            Input::LastSample => self.number(u64::MAX),
        }
        let outputs = match outputs {
            Outputs::None => 0,
            Outputs::Last => 1,
            Outputs::All => 2,
        };
        let numbers = [u64::from(*start), outputs, u64::from(*logprobs)];
        self.0.update(numbers.map(u64::to_le_bytes).as_flattened());
    }
}

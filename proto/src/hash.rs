//! The hash of a plan, over its expanded rows, so that ranks can prove that they ran the same one.

use xxhash_rust::xxh3::Xxh3;

use crate::ids::Token;
use crate::plan::{Bias, Input, Open, Outputs, Plan, Row, Sampling, Start};

impl Plan {
    /// Hash of this plan with `rows` in place of [`crate::Rows::Same`]. Every field counts.
    pub fn hash(&self, rows: &[Row]) -> u64 {
        let mut feed = Feed(Xxh3::new());
        feed.number(u64::from(self.group.0));
        feed.number(u64::from(self.epoch.0));
        feed.number(self.step.0);
        feed.length(self.close.len());
        self.close.iter().for_each(|slot| feed.number(u64::from(slot.0)));
        feed.length(self.open.len());
        self.open.iter().for_each(|open| feed.open(open));
        feed.length(self.blocks.len());
        for grant in &self.blocks {
            feed.number(u64::from(grant.slot.0));
            feed.number(u64::from(grant.kv_group.0));
            feed.length(grant.ids.len());
            grant.ids.iter().for_each(|id| feed.number(u64::from(id.0)));
        }
        feed.length(rows.len());
        rows.iter().for_each(|row| feed.row(row));
        feed.number(u64::from(self.masked));
        feed.0.digest()
    }
}

struct Feed(Xxh3);

impl Feed {
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

    /// Takes both apart, so that a field which is forgotten here does not compile.
    fn open(&mut self, open: &Open) {
        let Open { slot, sampling, seed, choice, prompt_len, history, biases, adapter } = open;
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
        self.number(u64::from(*adapter));
    }

    fn row(&mut self, row: &Row) {
        self.number(u64::from(row.slot.0));
        match &row.input {
            Input::Tokens(tokens) => self.tokens(tokens),
            Input::LastSample => self.number(u64::MAX),
        }
        let start = match row.start {
            Start::At(position) => u64::from(position),
            Start::AfterLast => u64::MAX,
        };
        let outputs = match row.outputs {
            Outputs::None => 0,
            Outputs::Last => 1,
            Outputs::All => 2,
        };
        let numbers = [start, outputs, row.draft.into(), row.logprobs.into()];
        self.0.update(numbers.map(u64::to_le_bytes).as_flattened());
    }
}

//! The hash of a plan, over its expanded rows, so that ranks can prove that they ran the same one.

use xxhash_rust::xxh3::Xxh3;

use crate::ids::Token;
use crate::plan::{Input, Outputs, Plan, Row, Start};

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
        for open in &self.open {
            feed.number(u64::from(open.slot.0));
            let s = &open.sampling;
            for value in [
                s.temperature,
                s.top_p,
                s.min_p,
                s.repetition_penalty,
                s.presence_penalty,
                s.frequency_penalty,
            ] {
                feed.number(u64::from(value.to_bits()));
            }
            feed.number(u64::from(s.top_k));
            feed.number(open.seed);
            feed.number(u64::from(open.choice));
            feed.number(u64::from(open.prompt_len));
            feed.tokens(&open.history);
            feed.length(open.biases.len());
            for bias in &open.biases {
                feed.number(u64::from(bias.token) << 32 | u64::from(bias.value.to_bits()));
            }
            feed.number(u64::from(open.adapter));
        }
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

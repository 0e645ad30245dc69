//! Choices of a pass's tokens, sorted by expert.

use std::ops::Range;

use super::routing::ExpertChoice;

/// Rows of this rank's experts: a row for each choice that fell on one of them, expert by expert,
/// and of an expert token by token.
#[derive(Default)]
pub(super) struct SortedChoices {
    /// Where each expert's rows begin, and where the last one's end.
    starts: Vec<usize>,
    /// The token of each row.
    tokens: Vec<usize>,
    /// The row of each choice, if it is this rank's.
    rows: Vec<Option<usize>>,
}

impl SortedChoices {
    /// Takes memory for so many choices and experts.
    pub(super) fn reserve(&mut self, choices: usize, experts: usize) {
        self.starts.reserve(experts + 2);
        self.tokens.reserve(choices);
        self.rows.reserve(choices);
    }

    /// Sorts `choices`, of which each token has `top_k`, for the experts in `held`.
    pub(super) fn sort(&mut self, choices: &[ExpertChoice], top_k: usize, held: Range<usize>) {
        let place = |choice: &ExpertChoice| {
            held.contains(&choice.expert).then(|| choice.expert - held.start)
        };
        // While rows are given out, `starts[e + 1]` is the next row of expert `e`.
        self.starts.clear();
        self.starts.resize(held.len() + 2, 0);
        for expert in choices.iter().filter_map(place) {
            self.starts[expert + 2] += 1;
        }
        for expert in 2..self.starts.len() {
            self.starts[expert] += self.starts[expert - 1];
        }
        self.tokens.clear();
        self.tokens.resize(self.starts[held.len() + 1], 0);
        self.rows.clear();
        for (index, choice) in choices.iter().enumerate() {
            let row = place(choice).map(|expert| {
                let next = &mut self.starts[expert + 1];
                let row = *next;
                *next += 1;
                self.tokens[row] = index / top_k;
                row
            });
            self.rows.push(row);
        }
    }

    /// Rows of all experts.
    pub(super) fn count(&self) -> usize {
        self.tokens.len()
    }

    /// Rows of one of this rank's experts.
    pub(super) fn of_expert(&self, expert: usize) -> Range<usize> {
        self.starts[expert]..self.starts[expert + 1]
    }

    pub(super) fn token(&self, row: usize) -> usize {
        self.tokens[row]
    }

    /// The row of a choice, if it fell on one of this rank's experts.
    pub(super) fn row(&self, choice: usize) -> Option<usize> {
        self.rows[choice]
    }
}

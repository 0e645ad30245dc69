//! `absorb`: the tokens that a step sampled become part of the journals.
//!
//! Deliberately absent: comparing ranks, which the fleet does, and finding stop strings, which the
//! text stage does.

use binfer_proto::{RowResult, RowStatus, StepResult, Tokens};

use super::Scheduler;
use super::rows::{SentPlan, SentRow};
use super::types::{AbsorbError, Delivery, FailCause, Finish};

impl Scheduler {
    /// Takes the result of the oldest step in flight. A result of an earlier epoch is dropped.
    /// After an error the state is as before, and the step has failed: only [`Self::abort_all`]
    /// helps.
    pub fn absorb(&mut self, result: &StepResult) -> Result<Vec<Delivery>, AbsorbError> {
        if result.replica != self.config.replica {
            return Err(AbsorbError::Replica {
                got: result.replica.0,
                want: self.config.replica.0,
            });
        }
        if result.epoch < self.epoch {
            return Ok(Vec::new());
        }
        if result.epoch > self.epoch {
            return Err(AbsorbError::Epoch { got: result.epoch, now: self.epoch });
        }
        let sent = self.in_flight.pop_front_if(|sent| sent.step == result.step);
        let Some(sent) = sent else {
            let want = self.in_flight.front().map(|sent| sent.step);
            return Err(AbsorbError::Step { got: result.step, want });
        };
        if let Err(error) = sent.check(result) {
            self.in_flight.push_front(sent);
            return Err(error);
        }
        let rows = sent.rows.iter().zip(&result.rows);
        let mut deliveries = Vec::with_capacity(sent.rows.len());
        deliveries.extend(rows.filter_map(|(row, outcome)| self.absorb_row(row, outcome)));
        Ok(deliveries)
    }

    fn absorb_row(&mut self, row: &SentRow, outcome: &RowResult) -> Option<Delivery> {
        // A sequence may have ended while this step was in flight. Its tokens are dropped.
        let sequence = self.sequences.get_mut(row.key)?;
        sequence.rows_in_flight -= 1;
        sequence.num_in_flight -= usize::from(row.samples);
        if outcome.status == RowStatus::NonFinite {
            self.uncache_blocks(row.key);
            return Some(self.conclude(row, Tokens::new(), Finish::Failed(FailCause::NonFinite)));
        }
        let token = *outcome.tokens.first()?;
        sequence.tokens.push(token);
        if sequence.is_end(token) {
            let end_token = Some(token);
            let last = self.conclude(row, Tokens::new(), Finish::Stop);
            return Some(Delivery { end_token, ..last });
        }
        if sequence.tokens.len() >= sequence.len_max {
            let last = self.conclude(row, Tokens::from_slice(&[token]), Finish::Length);
            return Some(Delivery { logprobs: outcome.logprobs.clone(), ..last });
        }
        let usage = sequence.usage();
        Some(Delivery {
            id: sequence.id,
            tokens: Tokens::from_slice(&[token]),
            logprobs: outcome.logprobs.clone(),
            finish: None,
            usage,
            end_token: None,
        })
    }

    fn conclude(&mut self, row: &SentRow, tokens: Tokens, finish: Finish) -> Delivery {
        let sequence = self.end(row.key);
        self.counters.overruns_dropped += sequence.num_in_flight as u64;
        let (logprobs, usage) = (Vec::new(), sequence.usage());
        let (id, finish) = (sequence.id, Some(finish));
        Delivery { id, tokens, logprobs, finish, usage, end_token: None }
    }
}

impl SentPlan {
    /// Refuses a result that is not of this plan, row by row.
    fn check(&self, result: &StepResult) -> Result<(), AbsorbError> {
        let step = self.step;
        if result.plan_hash != self.hash {
            return Err(AbsorbError::PlanHash { step, got: result.plan_hash, want: self.hash });
        }
        if result.rows.len() != self.rows.len() {
            let (got, want) = (result.rows.len(), self.rows.len());
            return Err(AbsorbError::RowCount { step, got, want });
        }
        for (index, (row, outcome)) in self.rows.iter().zip(&result.rows).enumerate() {
            let (got, want) = (outcome.tokens.len(), usize::from(row.samples));
            if outcome.status == RowStatus::Ok && got != want {
                return Err(AbsorbError::TokenCount { step, row: index, got, want });
            }
            let (got, want) = (outcome.logprobs.len(), usize::from(row.logprobs));
            if outcome.status == RowStatus::Ok && got != want {
                return Err(AbsorbError::LogprobCount { step, row: index, got, want });
            }
        }
        Ok(())
    }
}

//! Times of requests: when each was taken, and when its last token came.

use super::Metrics;
use crate::sched::{Finish, RequestId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Follows the requests that run.
#[derive(Debug)]
pub struct RequestMeter {
    metrics: Arc<Metrics>,
    open: BTreeMap<RequestId, RequestTimes>,
}

#[derive(Clone, Copy, Debug)]
struct RequestTimes {
    submitted: Instant,
    last_token: Option<Instant>,
}

impl RequestMeter {
    /// A meter that tells `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, open: BTreeMap::new() }
    }

    /// What it tells.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// A request with so many prompt tokens was taken.
    pub fn submitted(&mut self, id: RequestId, prompt_tokens: usize) {
        self.metrics.instruments.prompt_tokens.inc_by(prompt_tokens as u64);
        let times = RequestTimes { submitted: Instant::now(), last_token: None };
        self.open.insert(id, times);
    }

    /// So many tokens of a request came at `now`.
    pub fn tokens(&mut self, id: RequestId, count: usize, now: Instant) {
        let Some(times) = self.open.get_mut(&id).filter(|_| count > 0) else { return };
        let instruments = &self.metrics.instruments;
        instruments.generated_tokens.inc_by(count as u64);
        let between = match times.last_token.replace(now) {
            Some(last) => now.saturating_duration_since(last).as_secs_f64() / count as f64,
            None => {
                let waited = now.saturating_duration_since(times.submitted).as_secs_f64();
                instruments.first_token_seconds.observe(waited);
                return;
            }
        };
        (0..count).for_each(|_| instruments.inter_token_seconds.observe(between));
    }

    /// A request ended.
    pub fn ended(&mut self, id: RequestId, finish: Finish) {
        let Some(times) = self.open.remove(&id) else { return };
        self.metrics.ended(finish);
        let took = times.submitted.elapsed().as_secs_f64();
        self.metrics.instruments.request_seconds.observe(took);
    }
}

//! What is measured while the server runs, in the text that Prometheus reads.
//!
//! Names, units and buckets are in docs/metrics.md, which a test compares with what is served.
//! Names that begin with `vllm:` are there for Kubernetes' endpoint picker, which reads those five.

mod instruments;
mod labels;
mod request_meter;

pub use instruments::LoadNumbers;
pub use labels::RefusalCause;
pub use request_meter::RequestMeter;

use instruments::{Gauges, Instruments};
use labels::{EndReason, MissCause, MissLabel, RankLabel};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use std::fmt;

use crate::sched::{CacheMisses, Counters, Finish};

/// All instruments of a server.
pub struct Metrics {
    registry: Registry,
    instruments: Instruments,
    gauges: Gauges,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Instruments of a server of the model `name` that have seen nothing.
    pub fn new(name: &str) -> Self {
        let mut registry = Registry::default();
        let instruments = Instruments::registered(&mut registry);
        let gauges = Gauges::registered(&mut registry, name);
        Self { registry, instruments, gauges }
    }

    /// The exposition, in OpenMetrics' text format.
    pub fn text(&self, is_ready: bool) -> String {
        self.gauges.set_ready(is_ready);
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// A request was not taken.
    pub fn refused(&self, cause: RefusalCause) {
        self.instruments.refused.get_or_create(&cause.into()).inc();
    }

    /// A rank took so long for a step.
    pub fn step(&self, rank: usize, step_us: u64) {
        let label = RankLabel { rank: rank as u64 };
        self.instruments.step_seconds.get_or_create(&label).observe(step_us as f64 / 1e6);
    }

    /// The load is this from now on.
    pub fn loaded(&self, load: &LoadNumbers) {
        self.gauges.set(load);
    }

    /// What the scheduler has counted since it started.
    pub fn counted(&self, counters: &Counters) {
        let set = |counter: &instruments::Total, value: u64| {
            counter.inner().store(value, std::sync::atomic::Ordering::Relaxed);
        };
        set(&self.instruments.preemptions, counters.preemptions);
        set(&self.instruments.prefix_hits, counters.prefix_hits);
        set(&self.instruments.prefix_tokens_hit, counters.prefix_tokens_hit);
        let CacheMisses { too_short, evicted, different, salt } = counters.prefix_misses;
        for (cause, count) in [
            (MissCause::TooShort, too_short),
            (MissCause::Evicted, evicted),
            (MissCause::Different, different),
            (MissCause::Salt, salt),
        ] {
            let family = &self.instruments.prefix_misses;
            set(&family.get_or_create(&MissLabel { cause }), count);
        }
    }

    fn ended(&self, finish: Finish) {
        let reason = match finish {
            Finish::Stop => EndReason::Stop,
            Finish::StopString(_) => EndReason::StopString,
            Finish::Length => EndReason::Length,
            Finish::Cancelled => EndReason::Cancelled,
            Finish::Failed(_) => EndReason::Failed,
        };
        self.instruments.ended.get_or_create(&reason.into()).inc();
    }
}

#[cfg(test)]
mod tests;

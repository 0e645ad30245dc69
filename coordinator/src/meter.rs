//! What a step costs the coordinator in CPU time.
//!
//! All that the process does between two results belongs to one step: reading the result, making
//! text, planning, sending the plan, writing events to clients. The clocks are those behind
//! getrusage: user and system time of all threads, in nanoseconds.

use rustix::time::{ClockId, clock_gettime};

/// What the process spent between two results.
#[derive(Clone, Copy, Debug)]
pub struct StepCost {
    /// Rows of the first of the two results.
    pub rows: usize,
    /// CPU time of all threads.
    pub process_ns: u64,
    /// CPU time of the serve loop's thread, which is a part of it.
    pub serve_ns: u64,
}

/// Takes one sample a step.
#[derive(Debug, Default)]
pub struct StepMeter {
    last: Option<StepCost>,
    costs: Vec<StepCost>,
}

impl StepMeter {
    /// A result of `rows` rows came in.
    pub fn stepped(&mut self, rows: usize) {
        let process_ns = clock_ns(ClockId::ProcessCPUTime);
        let serve_ns = clock_ns(ClockId::ThreadCPUTime);
        if let Some(last) = self.last.replace(StepCost { rows, process_ns, serve_ns }) {
            self.costs.push(StepCost {
                rows: last.rows,
                process_ns: process_ns.saturating_sub(last.process_ns),
                serve_ns: serve_ns.saturating_sub(last.serve_ns),
            });
        }
    }

    /// All samples so far: one for each step but the last.
    pub fn costs(&self) -> &[StepCost] {
        &self.costs
    }
}

fn clock_ns(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}

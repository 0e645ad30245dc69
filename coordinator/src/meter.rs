//! What steps cost the coordinator in CPU time, measured where their results come in.
//!
//! From one result to the next everything that the process does belongs to a step: reading the
//! result, text, planning, sending the plan, writing events to clients. The clocks are the ones
//! behind getrusage (user and system time of all threads), in nanoseconds.

use rustix::time::{ClockId, clock_gettime};

/// Cost of the time between two results.
#[derive(Clone, Copy, Debug)]
pub struct StepCost {
    /// Rows of the step that began it.
    pub rows: usize,
    /// CPU time of the whole process.
    pub process_ns: u64,
    /// Of that, the serve loop's thread.
    pub serve_ns: u64,
}

/// Takes one sample a step.
#[derive(Debug, Default)]
pub struct StepMeter {
    last: Option<StepCost>,
    costs: Vec<StepCost>,
}

impl StepMeter {
    /// A result with `rows` rows came in.
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

    /// All samples so far, one a step but the last.
    pub fn costs(&self) -> &[StepCost] {
        &self.costs
    }
}

fn clock_ns(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}

//! Times summed over steps, by operation: the table of `--profile`.

use std::collections::{BTreeMap, VecDeque};

use super::cost::{Cost, Counts, TimedOperation};
use super::table::table;
use crate::backend::Peaks;

/// How many of the last gaps between steps are remembered.
const GAPS_MAX: usize = 1 << 16;

/// What an operation took in all layers and steps.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    calls: u64,
    ns: u64,
    cost: Cost,
}

/// Times of operations, summed over steps.
pub(super) struct Profile {
    peaks: Option<Peaks>,
    /// Totals by name without the layer, and by kernels.
    totals: BTreeMap<(String, String), Total>,
    steps: u64,
    /// Times from the end of a step to the beginning of the next, for the last steps.
    gaps_ns: VecDeque<u64>,
    last_end_ns: Option<u64>,
}

impl Profile {
    pub(super) fn new(peaks: Option<Peaks>) -> Self {
        let (totals, gaps_ns) = (BTreeMap::new(), VecDeque::new());
        Self { peaks, totals, steps: 0, gaps_ns, last_end_ns: None }
    }

    /// Takes a step: `stamps_ns` are the beginnings of its operations, and the end.
    pub(super) fn add(
        &mut self,
        operations: &[TimedOperation],
        counts: &Counts,
        stamps_ns: &[u64],
    ) {
        self.steps += 1;
        if let (Some(end), Some(begin)) = (self.last_end_ns, stamps_ns.first()) {
            if self.gaps_ns.len() == GAPS_MAX {
                self.gaps_ns.pop_front();
            }
            self.gaps_ns.push_back(begin.saturating_sub(end));
        }
        self.last_end_ns = stamps_ns.last().copied();
        for (operation, times) in operations.iter().zip(stamps_ns.windows(2)) {
            let cost = operation.work.cost(counts);
            let key = (kind(&operation.name), kernels(operation));
            let total = self.totals.entry(key).or_default();
            total.calls += 1;
            total.ns += times[1].saturating_sub(times[0]);
            total.cost.flop += cost.flop;
            total.cost.bytes += cost.bytes;
        }
    }

    /// The table of operations, the longest first, with its head and a summary.
    pub(super) fn table(&self) -> String {
        let all_ns: u64 = self.totals.values().map(|total| total.ns).sum();
        let mut totals: Vec<_> = self.totals.iter().collect();
        totals.sort_by_key(|(_, total)| std::cmp::Reverse(total.ns));
        let rows: Vec<Vec<String>> = totals
            .iter()
            .map(|((name, kernels), total)| self.row(name, kernels, total, all_ns))
            .collect();
        let head =
            ["operation", "calls", "ms", "%", "TFLOP/s", "MFU %", "GB/s", "of peak %", "kernels"];
        format!("{}\n{}\n", table(&head, &rows), self.summary(all_ns))
    }

    fn row(&self, name: &str, kernels: &str, total: &Total, all_ns: u64) -> Vec<String> {
        let seconds = total.ns.max(1) as f64 / 1e9;
        let (flop_per_s, bytes_per_s) =
            (total.cost.flop as f64 / seconds, total.cost.bytes as f64 / seconds);
        let share = |rate: f64, peak: fn(&Peaks) -> f64| {
            let share = self.peaks.as_ref().map(|peaks| 100.0 * rate / peak(peaks));
            share
                .filter(|_| rate > 0.0)
                .map_or_else(|| "-".to_owned(), |share| format!("{share:.1}"))
        };
        let rate = |rate: f64, unit: f64, digits: usize| {
            if rate > 0.0 { format!("{:.digits$}", rate / unit) } else { "-".to_owned() }
        };
        vec![
            name.to_owned(),
            total.calls.to_string(),
            format!("{:.3}", seconds * 1e3),
            format!("{:.1}", 100.0 * total.ns as f64 / all_ns.max(1) as f64),
            rate(flop_per_s, 1e12, 2),
            share(flop_per_s, |peaks| peaks.flop_per_s),
            rate(bytes_per_s, 1e9, 0),
            share(bytes_per_s, |peaks| peaks.bytes_per_s),
            kernels.to_owned(),
        ]
    }

    fn summary(&self, all_ns: u64) -> String {
        let mut gaps: Vec<u64> = self.gaps_ns.iter().copied().collect();
        gaps.sort_unstable();
        let gap = gaps.get(gaps.len() / 2).map_or_else(String::new, |median| {
            format!("; between steps {:.1} us (median)", *median as f64 / 1e3)
        });
        let peaks = self.peaks.as_ref().map_or_else(String::new, |peaks| {
            format!(
                "; peaks measured here: {:.0} GB/s copying, {:.0} TFLOP/s in a gemm of {} cubed",
                peaks.bytes_per_s / 1e9,
                peaks.flop_per_s / 1e12,
                peaks.gemm_side
            )
        });
        format!("{} steps, {:.3} ms in operations{gap}{peaks}", self.steps, all_ns as f64 / 1e6)
    }
}

/// The name without its layer: `attn.qkv` of `layers.17.attn.qkv`.
fn kind(name: &str) -> String {
    let of_layer = name.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
    of_layer.map_or(name, |(_, kind)| kind).to_owned()
}

pub(super) fn kernels(operation: &TimedOperation) -> String {
    operation.kernels.join(" ")
}

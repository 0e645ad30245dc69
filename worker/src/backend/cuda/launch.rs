//! What the launches of a step share: what they cover, and where the step's tables lie.

use binfer_kernels::params::StepTables;

use super::device::CudaDevice;
use crate::backend::StepMode;

/// What launches cover: at least what the batch has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LaunchShape {
    pub(super) tokens: u32,
    pub(super) rows: u32,
    pub(super) outputs: u32,
    /// `Graph` where every row feeds one token and samples one, so that launches cover a bucket of
    /// rows and a CUDA graph may hold them. Without graphs the same launches are made one by one.
    pub(super) mode: StepMode,
}

impl LaunchShape {
    /// The shape of no step.
    pub(super) const NONE: Self = Self { tokens: 0, rows: 0, outputs: 0, mode: StepMode::Eager };

    /// The shape of steps of up to so many decode rows.
    pub(super) fn of_bucket(rows: u32) -> Self {
        Self { tokens: rows, rows, outputs: rows, mode: StepMode::Graph }
    }

    /// Rows that launches cover of a tensor of `rows`.
    pub(super) fn covered_rows(&self, rows: usize) -> usize {
        match self.mode {
            StepMode::Graph => rows.max(self.rows as usize),
            StepMode::Eager => rows,
        }
    }
}

/// Where the state of a step lies on the device; the same for all steps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StepPlaces {
    pub(super) tables: StepTables,
    /// Block tables of all KV groups, one after the other.
    pub(super) block_tables: u64,
    /// u32 `[slots]`: the last sampled token of each.
    pub(super) last_tokens: u64,
}

/// What every component that launches kernels needs to know of the step under way.
#[derive(Clone, Copy)]
pub(super) struct Launcher<'a> {
    pub(super) device: &'a CudaDevice,
    pub(super) places: &'a StepPlaces,
    pub(super) shape: LaunchShape,
    /// What is launched is captured into a CUDA graph, not run.
    pub(super) is_capturing: bool,
}

/// A size as kernels have it. Sizes were checked against what was allocated, which fits
/// (`Memory::new`).
pub(super) fn to_u32(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

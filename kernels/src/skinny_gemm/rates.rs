//! What the estimate of a skinny gemm's time knows, by number of tokens: fitted, not derived.
//!
//! Deliberately absent: the estimate itself.

/// Bytes a microsecond that memory delivers.
pub(super) const MEMORY_RATE: f64 = 3.05e6;

/// What the estimate knows of gemms of so many tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    /// Bytes a microsecond out of the second-level cache, and into one multiprocessor.
    pub(super) cache: f64,
    pub(super) block: f64,
    /// Products a microsecond of one multiprocessor.
    pub(super) multiply: f64,
    /// Microseconds that a cluster adds up, and more of them for 10,000 sums of a tile.
    pub(super) cluster: f64,
    pub(super) sums: f64,
    /// Share of a block's time that nothing hides; what more it is in a cluster, and of a warpgroup
    /// without rows.
    pub(super) alone: f64,
    pub(super) together: f64,
    pub(super) partial: f64,
    /// Microseconds in which 10,000 sums of a tile find their way out.
    pub(super) ends: f64,
    /// Microseconds that tiles of less than 32 rows lose.
    pub(super) narrow: f64,
}

const FEW: Rates = Rates { cluster: 0.3, narrow: 1.0, ..SOME };
const SOME: Rates = Rates {
    cache: 6.5e6,
    block: 55e3,
    multiply: f64::INFINITY,
    cluster: 1.0,
    sums: 0.0,
    alone: 0.15,
    together: 0.0,
    partial: 0.0,
    ends: 0.0,
    narrow: 0.0,
};
const MORE: Rates = Rates {
    cache: 11.3e6,
    block: 114e3,
    multiply: 3.9e6,
    cluster: 1.4,
    sums: 0.73,
    alone: 0.24,
    together: 0.08,
    partial: 0.12,
    ends: 0.43,
    narrow: 0.0,
};
const MANY: Rates = Rates {
    cache: 10e6,
    block: 104e3,
    multiply: 3.5e6,
    cluster: 2.6,
    sums: 1.8,
    alone: 0.09,
    together: 0.2,
    partial: 0.24,
    ends: 0.0,
    narrow: 0.0,
};

impl Rates {
    pub(super) fn of(m: u32) -> &'static Self {
        match m {
            ..=16 => &FEW,
            17..=64 => &SOME,
            65..=128 => &MORE,
            _ => &MANY,
        }
    }
}

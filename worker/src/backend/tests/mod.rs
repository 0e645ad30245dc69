//! What the tests of all backends share: numbers, oracles in double precision, nearness.
#![allow(clippy::cast_possible_truncation, reason = "small numbers of the tests' own")]

#[path = "../../../../shard-tool/tests/support/blocks.rs"]
mod blocks;
pub(super) mod oracle;
mod oracle_examples;
mod rope;

use binfer_shard::DType;

use blocks::block;

/// Numbers that look random, the same in every run.
#[derive(Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }

    /// A number between -1 and 1.
    pub(super) fn float(&mut self) -> f32 {
        self.next() as f32 / (1_u64 << 30) as f32 - 1.0
    }

    pub(super) fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }

    /// A packed matrix of that type, its weights between about -1 and 1.
    pub(super) fn packed(&mut self, dtype: DType, rows: usize, cols: usize) -> Vec<u8> {
        let blocks = rows * cols / dtype.block_elems() as usize;
        (0..blocks).flat_map(|_| block(dtype, 1.0, &mut || self.next())).collect()
    }

    /// A type whose blocks rows of `cols` consist of.
    pub(super) fn dtype(&mut self, cols: usize) -> DType {
        let fits = |dtype: &DType| cols.is_multiple_of(dtype.block_elems() as usize);
        let fitting: Vec<DType> = DType::ALL.into_iter().filter(fits).collect();
        fitting[self.below(fitting.len())]
    }
}

/// Every number of `got` lies within `tolerance` of `want`, in units of what went into it.
pub(super) fn assert_near(got: &[f32], want: &[oracle::Sum], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*got) - want.value).abs() / want.size.max(1e-3);
        assert!(error <= tolerance, "{what}: {index}: {got} instead of {want:?}");
    }
}

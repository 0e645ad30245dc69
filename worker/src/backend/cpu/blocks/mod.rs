//! Blocks of weights as the kernel reads them: some inputs by sixteen rows, as packed as they came.
//!
//! | file | is |
//! |---|---|
//! | `plain.rs` | F32, F16, BF16 |
//! | `bytes.rs` | Q8_0 |
//! | `codes.rs` | integers of four to six bits, whatever their scales |
//! | `single.rs` | Q4_0, Q4_1, Q5_0, Q5_1: one scale for 32 inputs |
//! | `double.rs` | Q4_K, Q5_K, Q6_K: scales of scales for 256 inputs |
//! | `sums.rs` | multiply-adds that all of them share |
//!
//! A lane is a row. Inputs come in groups of 32, the unit of a gemm's order: multiply-adds over
//! a group's inputs, then its scale. Deliberately absent: which block comes where (`matrix.rs`).

mod bytes;
mod codes;
mod double;
mod plain;
mod single;
mod sums;

use binfer_shard::DType;

use super::inputs::{GROUP, Inputs};
use super::simd::{Isa, LANES};
use bytes::BlockQ80;
use double::{BlockK, BlockQ6K};
use plain::{BlockBF16, BlockF16, BlockF32};
use single::{BlockWithMinimum, BlockWithOffset};

/// A type of block.
pub(super) trait Block: Clone {
    /// Groups of inputs that it holds.
    const GROUPS: usize;
    /// Of weights that are all zero.
    const ZERO: Self;

    /// Takes up one row of a block of the checkpoint; of plain types there may be fewer inputs.
    fn pack(&mut self, lane: usize, from: &[u8]);

    /// One row's inputs of a group.
    fn read(&self, group: usize, lane: usize, out: &mut [f32]);

    /// `sums` with the products of a group added; its inputs are number `index`.
    fn add_to<I: Isa, const T: usize>(
        &self,
        group: usize,
        inputs: &[Inputs<'_>; T],
        index: usize,
        sums: [I::Vector; T],
    ) -> [I::Vector; T];
}

/// Blocks of all bands of a part, band by band.
pub(super) enum Blocks {
    F32(Vec<BlockF32>),
    F16(Vec<BlockF16>),
    BF16(Vec<BlockBF16>),
    Q40(Vec<BlockWithOffset<0>>),
    Q41(Vec<BlockWithMinimum<0>>),
    Q50(Vec<BlockWithOffset<1>>),
    Q51(Vec<BlockWithMinimum<1>>),
    Q80(Vec<BlockQ80>),
    Q4K(Vec<BlockK<0>>),
    Q5K(Vec<BlockK<1>>),
    Q6K(Vec<BlockQ6K>),
}

/// Evaluates `$body` with `$all` as the vector of blocks, whatever their type.
macro_rules! with_blocks {
    ($blocks:expr, $all:ident => $body:expr) => {
        match $blocks {
            Blocks::F32($all) => $body,
            Blocks::F16($all) => $body,
            Blocks::BF16($all) => $body,
            Blocks::Q40($all) => $body,
            Blocks::Q41($all) => $body,
            Blocks::Q50($all) => $body,
            Blocks::Q51($all) => $body,
            Blocks::Q80($all) => $body,
            Blocks::Q4K($all) => $body,
            Blocks::Q5K($all) => $body,
            Blocks::Q6K($all) => $body,
        }
    };
}
pub(super) use with_blocks;

impl Blocks {
    /// Repacks rows of `dtype`.
    pub(super) fn pack(dtype: DType, rows: &Rows<'_>) -> Self {
        match dtype {
            DType::F32 => Self::F32(rows.pack(dtype)),
            DType::F16 => Self::F16(rows.pack(dtype)),
            DType::BF16 => Self::BF16(rows.pack(dtype)),
            DType::Q4_0 => Self::Q40(rows.pack(dtype)),
            DType::Q4_1 => Self::Q41(rows.pack(dtype)),
            DType::Q5_0 => Self::Q50(rows.pack(dtype)),
            DType::Q5_1 => Self::Q51(rows.pack(dtype)),
            DType::Q8_0 => Self::Q80(rows.pack(dtype)),
            DType::Q4_K => Self::Q4K(rows.pack(dtype)),
            DType::Q5_K => Self::Q5K(rows.pack(dtype)),
            DType::Q6_K => Self::Q6K(rows.pack(dtype)),
        }
    }

    /// One row's elements: of its band, which has `groups` groups, and its lane.
    pub(super) fn read_row(&self, row: usize, groups: usize, out: &mut [f32]) {
        with_blocks!(self, all => read_row(all, row, groups, out));
    }
}

fn read_row<B: Block>(all: &[B], row: usize, groups: usize, out: &mut [f32]) {
    let first = row / LANES * groups;
    for (index, out) in out.chunks_mut(GROUP).enumerate() {
        let group = first + index;
        all[group / B::GROUPS].read(group % B::GROUPS, row % LANES, out);
    }
}

/// Rows as a checkpoint has them, to be walked band by band and block by block.
pub(super) struct Rows<'a> {
    pub(super) count: usize,
    pub(super) row_bytes: usize,
    pub(super) bytes: &'a [u8],
}

impl Rows<'_> {
    fn pack<B: Block>(&self, dtype: DType) -> Vec<B> {
        let per_element_block = dtype.block_elems() as usize;
        let block_bytes = B::GROUPS * GROUP / per_element_block * dtype.block_bytes() as usize;
        let blocks = self.row_bytes.div_ceil(block_bytes);
        let mut packed = vec![B::ZERO; self.count.div_ceil(LANES) * blocks];
        if blocks == 0 {
            return packed;
        }
        for (row, bytes) in self.bytes.chunks_exact(self.row_bytes).enumerate() {
            let band = &mut packed[row / LANES * blocks..][..blocks];
            for (to, from) in band.iter_mut().zip(bytes.chunks(block_bytes)) {
                to.pack(row % LANES, from);
            }
        }
        packed
    }
}

/// A number of half precision.
fn half(bits: u16) -> f32 {
    half::f16::from_bits(bits).to_f32_const()
}

/// The bits of the half-precision number at byte `at`.
fn half_bits(from: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([from[at], from[at + 1]])
}

//! Blocks of a part's rows, whatever their type.

use binfer_shard::DType;

use super::super::inputs::GROUP;
use super::super::simd::LANES;
use super::block::WeightBlock;
use super::bytes::BlockQ80;
use super::double::{BlockK, BlockQ6K};
use super::fp8::BlockFp8;
use super::mxfp4::BlockMxfp4;
use super::plain::{BlockBF16, BlockF16, BlockF32};
use super::single::{BlockWithMinimum, BlockWithOffset};
use crate::backend::BackendError;

/// Blocks of all bands of a part, band by band.
pub(in crate::backend::cpu) enum WeightBlocks {
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
    Mxfp4(Vec<BlockMxfp4>),
    Fp8(Vec<BlockFp8>),
}

/// Evaluates `$body` with `$all` as the vector of blocks, whatever their type.
macro_rules! with_blocks {
    ($blocks:expr, $all:ident => $body:expr) => {
        match $blocks {
            WeightBlocks::F32($all) => $body,
            WeightBlocks::F16($all) => $body,
            WeightBlocks::BF16($all) => $body,
            WeightBlocks::Q40($all) => $body,
            WeightBlocks::Q41($all) => $body,
            WeightBlocks::Q50($all) => $body,
            WeightBlocks::Q51($all) => $body,
            WeightBlocks::Q80($all) => $body,
            WeightBlocks::Q4K($all) => $body,
            WeightBlocks::Q5K($all) => $body,
            WeightBlocks::Q6K($all) => $body,
            WeightBlocks::Mxfp4($all) => $body,
            WeightBlocks::Fp8($all) => $body,
        }
    };
}
pub(in crate::backend::cpu) use with_blocks;

impl WeightBlocks {
    /// Repacks rows of `dtype`.
    pub(in crate::backend::cpu) fn pack(
        dtype: DType,
        rows: &BlockRows<'_>,
    ) -> Result<Self, BackendError> {
        Ok(match dtype {
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
            DType::MXFP4 => Self::Mxfp4(rows.pack(dtype)),
            DType::FP8_BLOCK => Self::Fp8(rows.pack(dtype)),
            DType::F8_E4M3 | DType::U8 => {
                let what = format!("weights of type {}", dtype.name());
                return Err(BackendError::NoKernel { operation: "load", what });
            }
        })
    }

    /// One row's elements: of its band, which has `groups` groups, and its lane.
    pub(in crate::backend::cpu) fn read_row(&self, row: usize, groups: usize, out: &mut [f32]) {
        with_blocks!(self, all => read_row(all, row, groups, out));
    }
}

fn read_row<B: WeightBlock>(all: &[B], row: usize, groups: usize, out: &mut [f32]) {
    let first = row / LANES * groups;
    for (index, out) in out.chunks_mut(GROUP).enumerate() {
        let group = first + index;
        all[group / B::GROUPS].read(group % B::GROUPS, row % LANES, out);
    }
}

/// Rows as a checkpoint has them, to be walked band by band and block by block.
pub(in crate::backend::cpu) struct BlockRows<'a> {
    pub(in crate::backend::cpu) count: usize,
    pub(in crate::backend::cpu) row_bytes: usize,
    pub(in crate::backend::cpu) bytes: &'a [u8],
}

impl BlockRows<'_> {
    fn pack<B: WeightBlock>(&self, dtype: DType) -> Vec<B> {
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

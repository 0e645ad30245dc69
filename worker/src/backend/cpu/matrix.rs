//! Weights in memory: as packed as in the checkpoint, in the order in which the kernel reads them.
//!
//! Sixteen output rows make a *band*, and a lane of a register is a row of the band, so that a
//! product needs no sum across lanes. Within a band, weights come in blocks of 32 inputs by 16
//! rows. Bands that are not full, and blocks past the last input, hold zeros. Deliberately absent:
//! arithmetic (`linear.rs`) and files (`Source`).

use std::ops::Range;

use binfer_shard::DType;

use super::simd::LANES;
use crate::backend::BackendError;

/// Inputs of a block; also the block of the quantised types.
pub(super) const BLOCK: usize = 32;

/// 32 inputs by 16 rows of `scale * q + minimum`. Word `k / 8` of a row holds input `k` in nibble
/// `k % 8`, the lowest first.
#[repr(C, align(64))]
#[derive(Clone)]
pub(super) struct BlockQ41 {
    pub(super) scale: [u16; LANES],
    pub(super) minimum: [u16; LANES],
    pub(super) q: [[u32; LANES]; BLOCK / 8],
}

/// 32 inputs by 16 rows of `scale * q`.
#[repr(C, align(32))]
#[derive(Clone)]
pub(super) struct BlockQ80 {
    pub(super) scale: [u16; LANES],
    pub(super) q: [[i8; LANES]; BLOCK],
}

/// 32 inputs by 16 rows of half precision.
#[repr(C, align(64))]
#[derive(Clone)]
pub(super) struct BlockF16(pub(super) [[u16; LANES]; BLOCK]);

/// 32 inputs by 16 rows of bfloat16.
#[repr(C, align(64))]
#[derive(Clone)]
pub(super) struct BlockBF16(pub(super) [[u16; LANES]; BLOCK]);

/// 32 inputs by 16 rows of single precision.
#[repr(C, align(64))]
#[derive(Clone)]
pub(super) struct BlockF32(pub(super) [[f32; LANES]; BLOCK]);

/// Blocks of all bands of a part, band by band.
pub(super) enum Blocks {
    F32(Vec<BlockF32>),
    F16(Vec<BlockF16>),
    BF16(Vec<BlockBF16>),
    Q80(Vec<BlockQ80>),
    Q41(Vec<BlockQ41>),
}

/// Consecutive output rows of one type.
pub(super) struct Part {
    /// Rows of the matrix that these are.
    pub(super) rows: Range<usize>,
    /// Bands of the matrix that these are.
    pub(super) bands: Range<usize>,
    pub(super) blocks: Blocks,
}

/// A weight `[rows, cols]` that maps `cols` inputs to `rows` outputs.
pub(super) struct Matrix {
    cols: usize,
    inputs: Range<usize>,
    parts: Vec<Part>,
}

/// Rows as a checkpoint has them: row-major, whole blocks.
pub(super) struct Packed<'a> {
    /// Type of the elements.
    pub(super) dtype: DType,
    /// Outputs.
    pub(super) rows: usize,
    /// The rows' bytes, one row after the other.
    pub(super) bytes: &'a [u8],
}

impl Matrix {
    /// Repacks `parts`, whose rows follow each other. All have `cols` columns; only those in
    /// `inputs` are fed, the others count as fed with zero.
    pub(super) fn from_packed(
        cols: usize,
        inputs: Range<usize>,
        parts: &[Packed<'_>],
    ) -> Result<Self, BackendError> {
        let mut matrix = Self { cols, inputs, parts: Vec::with_capacity(parts.len()) };
        if matrix.inputs.start > matrix.inputs.end || matrix.inputs.end > cols {
            return Err(refuse(format!("inputs {:?} of {cols} columns", matrix.inputs)));
        }
        for packed in parts {
            let (first_row, first_band) = (matrix.rows(), matrix.bands());
            matrix.parts.push(Part {
                rows: first_row..first_row + packed.rows,
                bands: first_band..first_band + packed.rows.div_ceil(LANES),
                blocks: repack(cols, packed)?,
            });
        }
        Ok(matrix)
    }

    /// Outputs.
    pub(super) fn rows(&self) -> usize {
        self.parts.last().map_or(0, |part| part.rows.end)
    }

    /// Columns as stored.
    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// Columns that are fed.
    pub(super) fn inputs(&self) -> Range<usize> {
        self.inputs.clone()
    }

    /// Groups of sixteen rows; each part begins with a new one.
    pub(super) fn bands(&self) -> usize {
        self.parts.last().map_or(0, |part| part.bands.end)
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Blocks of a band.
    pub(super) fn blocks_per_band(&self) -> usize {
        self.cols.div_ceil(BLOCK)
    }

    /// Writes a row's elements to `out`, which has room for all columns.
    pub(super) fn read_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows() && out.len() == self.cols, "a row of the matrix, and its room");
        for part in self.parts.iter().filter(|part| part.rows.contains(&row)) {
            let row = row - part.rows.start;
            let first = row / LANES * self.blocks_per_band();
            for (index, out) in out.chunks_mut(BLOCK).enumerate() {
                part.blocks.read(first + index, row % LANES, out);
            }
        }
    }
}

impl Blocks {
    /// One row's elements of a block.
    fn read(&self, block: usize, lane: usize, out: &mut [f32]) {
        let half = |bits: u16| half::f16::from_bits(bits).to_f32_const();
        for (k, out) in out.iter_mut().enumerate() {
            *out = match self {
                Self::F32(blocks) => blocks[block].0[k][lane],
                Self::F16(blocks) => half(blocks[block].0[k][lane]),
                Self::BF16(blocks) => f32::from_bits(u32::from(blocks[block].0[k][lane]) << 16),
                Self::Q80(blocks) => {
                    let block = &blocks[block];
                    half(block.scale[lane]) * f32::from(block.q[k][lane])
                }
                Self::Q41(blocks) => {
                    let block = &blocks[block];
                    let q = block.q[k / 8][lane] >> (4 * (k % 8)) & 15;
                    half(block.scale[lane]) * q as f32 + half(block.minimum[lane])
                }
            };
        }
    }
}

fn refuse(cause: String) -> BackendError {
    BackendError::Args { operation: "load", cause }
}

fn repack(cols: usize, packed: &Packed<'_>) -> Result<Blocks, BackendError> {
    let (dtype, rows) = (packed.dtype, packed.rows);
    let (elems, size) = (dtype.block_elems() as usize, dtype.block_bytes() as usize);
    let row_bytes = cols / elems * size;
    if !cols.is_multiple_of(elems) || packed.bytes.len() != rows * row_bytes {
        let bytes = packed.bytes.len();
        return Err(refuse(format!("{bytes} bytes for {rows} x {cols} of {}", dtype.name())));
    }
    let bands = Bands { rows, row_bytes, block_bytes: BLOCK / elems * size, bytes: packed.bytes };
    Ok(match dtype {
        DType::F32 => Blocks::F32(bands.pack(BlockF32([[0.0; LANES]; BLOCK]), |to, lane, from| {
            for (to, from) in to.0.iter_mut().zip(from.as_chunks().0) {
                to[lane] = f32::from_le_bytes(*from);
            }
        })),
        DType::F16 => Blocks::F16(bands.pack(BlockF16([[0; LANES]; BLOCK]), |to, lane, from| {
            pack_u16(&mut to.0, lane, from);
        })),
        DType::BF16 => {
            Blocks::BF16(bands.pack(BlockBF16([[0; LANES]; BLOCK]), |to, lane, from| {
                pack_u16(&mut to.0, lane, from);
            }))
        }
        DType::Q8_0 => {
            let zero = BlockQ80 { scale: [0; LANES], q: [[0; LANES]; BLOCK] };
            Blocks::Q80(bands.pack(zero, |to, lane, from| {
                to.scale[lane] = u16::from_le_bytes([from[0], from[1]]);
                for (to, from) in to.q.iter_mut().zip(&from[2..]) {
                    to[lane] = from.cast_signed();
                }
            }))
        }
        DType::Q4_1 => {
            let q = [[0; LANES]; BLOCK / 8];
            let zero = BlockQ41 { scale: [0; LANES], minimum: [0; LANES], q };
            Blocks::Q41(bands.pack(zero, pack_q4_1))
        }
    })
}

fn pack_u16(to: &mut [[u16; LANES]; BLOCK], lane: usize, from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from.as_chunks().0) {
        to[lane] = u16::from_le_bytes(*from);
    }
}

/// The checkpoint's block has input `k` in the low nibble of byte `k`, input `16 + k` in the high.
fn pack_q4_1(to: &mut BlockQ41, lane: usize, from: &[u8]) {
    to.scale[lane] = u16::from_le_bytes([from[0], from[1]]);
    to.minimum[lane] = u16::from_le_bytes([from[2], from[3]]);
    let bytes = &from[4..];
    for (word, q) in to.q.iter_mut().enumerate() {
        let eight = &bytes[word % 2 * 8..][..8];
        let nibble = |byte: u8| u32::from(if word < 2 { byte & 15 } else { byte >> 4 });
        q[lane] = (0..8).fold(0, |word, k| word | nibble(eight[k]) << (4 * k));
    }
}

/// A part's rows, walked band by band and block by block.
struct Bands<'a> {
    rows: usize,
    row_bytes: usize,
    /// Bytes of 32 inputs of a row; the last ones of a row may be fewer.
    block_bytes: usize,
    bytes: &'a [u8],
}

impl Bands<'_> {
    fn pack<B: Clone>(&self, zero: B, put: impl Fn(&mut B, usize, &[u8])) -> Vec<B> {
        let blocks = self.row_bytes.div_ceil(self.block_bytes);
        let mut packed = vec![zero; self.rows.div_ceil(LANES) * blocks];
        if blocks == 0 {
            return packed;
        }
        for (row, bytes) in self.bytes.chunks_exact(self.row_bytes).enumerate() {
            let band = &mut packed[row / LANES * blocks..][..blocks];
            for (to, from) in band.iter_mut().zip(bytes.chunks(self.block_bytes)) {
                put(to, row % LANES, from);
            }
        }
        packed
    }
}

//! Which narrow product (`cuda/narrow_product.cu`) serves a shape, and how it is launched.
//!
//! Pure: from a shape and a chip to a plan, the same on all ranks. The estimate was fitted to a sweep
//! over shapes of Qwen3-1.7B and 8B on an H100 (`bench/narrow.cu`), where of the grids for a kernel it
//! chose one within 4 % of the best; it was not fitted to other chips. Deliberately absent: the launch
//! itself, and images with wgmma, for which see `stream.rs`.

use crate::stream::{StreamShape, StreamStore};

/// One of the kernels `narrow_product_{variant}_{type}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NarrowKernel {
    /// Its place in the name.
    pub variant: &'static str,
    /// Tokens of a tile.
    pub tokens: u32,
    /// Weight rows of a tile.
    pub rows: u32,
    /// Slices of 64 columns that a stage of the ring holds.
    pub slices: u32,
    /// Warps that share the columns of a stage.
    pub column_warps: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Blocks of a multiprocessor that its registers do for.
    pub blocks: u32,
}

/// All of them, by tokens; the table at the end of `cuda/narrow_product.cu`.
pub const NARROW_KERNELS: [NarrowKernel; 5] = [
    kernel("n8", (8, 16), (8, 8), (256, 2)),
    kernel("n16", (16, 32), (4, 4), (128, 2)),
    kernel("n32", (32, 64), (2, 2), (128, 2)),
    kernel("n64", (64, 64), (2, 1), (128, 2)),
    kernel("n128", (128, 64), (1, 1), (128, 3)),
];

const fn kernel(
    variant: &'static str,
    (tokens, rows): (u32, u32),
    (slices, column_warps): (u32, u32),
    (threads, blocks): (u32, u32),
) -> NarrowKernel {
    NarrowKernel { variant, tokens, rows, slices, column_warps, threads, blocks }
}

/// Tokens that these products take at most.
pub const NARROW_TOKENS_MAX: u32 = 256;

/// Stages of a ring.
const STAGES: u32 = 3;
/// Columns of a slice.
const SLICE_COLUMNS: u32 = 64;
/// What a multiprocessor keeps of its shared memory for each block.
const RESERVED_BYTES: u32 = 1024;
/// Up to so many tokens one tile has them all; with more, two smaller tiles may do.
const ONE_TILE_TOKENS: u32 = 16;

/// Microseconds from asking for a stage until it is there.
const LATENCY: f64 = 1.3;
/// Bytes a microsecond that a multiprocessor takes in, and that memory has for each.
const MULTIPROCESSOR_RATE: f64 = 90e3;
const MEMORY_RATE: f64 = 23e3;
/// Bytes a microsecond at which a block adds up the pieces of a tile.
const PIECE_RATE: f64 = 40e3;
/// Microseconds that are lost where tiles are not cut into equal pieces.
const UNEVEN: f64 = 1.5;

/// What a plan has to know of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chip {
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that a block may have: all of a multiprocessor's but a kilobyte.
    pub shared_bytes_max: u32,
}

impl Chip {
    /// Blocks of any plan at most.
    #[must_use]
    pub fn blocks_max(&self) -> u32 {
        NARROW_KERNELS.iter().map(|kernel| kernel.blocks_at_once(self)).max().unwrap_or(0)
    }

    /// Bytes of the pieces of any plan at most.
    #[must_use]
    pub fn piece_bytes_max(&self) -> usize {
        let bytes = |kernel: &NarrowKernel| {
            2 * kernel.blocks_at_once(self) as usize * kernel.sum_bytes() as usize
        };
        NARROW_KERNELS.iter().map(bytes).max().unwrap_or(0)
    }
}

impl NarrowKernel {
    /// Shared memory of a block: the ring, and sums on their way from warp to warp.
    #[must_use]
    pub const fn shared_bytes(&self) -> u32 {
        STAGES * self.stage_bytes() + (self.column_warps - 1) * self.sum_bytes()
    }

    const fn stage_bytes(&self) -> u32 {
        self.slices * (self.rows + self.tokens) * SLICE_COLUMNS * 2
    }

    /// Bytes of a tile's sums.
    const fn sum_bytes(&self) -> u32 {
        self.rows * self.tokens * 4
    }

    /// Blocks of a chip that run at once; 0 where not even one does.
    fn blocks_at_once(&self, chip: &Chip) -> u32 {
        let room = chip.shared_bytes_max + RESERVED_BYTES;
        (room / (self.shared_bytes() + RESERVED_BYTES)).min(self.blocks) * chip.multiprocessors
    }
}

/// How to launch a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NarrowPlan {
    /// Index into [`NARROW_KERNELS`].
    pub kernel: usize,
    /// Blocks, which share the work evenly.
    pub blocks: u32,
}

/// The plan for a shape; `None` where no narrow product takes it.
#[must_use]
pub fn narrow_plan(shape: &StreamShape, chip: &Chip) -> Option<NarrowPlan> {
    let StreamShape { rows, inputs, tokens, store } = *shape;
    let is_odd = store == StreamStore::Glu && !rows.is_multiple_of(2);
    let none = rows == 0 || inputs == 0 || tokens == 0;
    if none || is_odd || !inputs.is_multiple_of(8) || tokens > NARROW_TOKENS_MAX {
        return None;
    }
    let enough = NARROW_KERNELS.iter().position(|kernel| kernel.tokens >= tokens);
    let last = enough.unwrap_or(NARROW_KERNELS.len() - 1);
    let first = if tokens > ONE_TILE_TOKENS && enough.is_some() { last - 1 } else { last };
    let mut best: Option<(f64, NarrowPlan)> = None;
    // Of equals the larger tile, which reads less.
    for index in (first..=last).rev() {
        let kernel = &NARROW_KERNELS[index];
        let (work, most) = (Work::new(kernel, shape), kernel.blocks_at_once(chip));
        if index < last && work.tiles() > most {
            continue; // weights of one tile of tokens are no longer in the cache for the next
        }
        for blocks in work.grids(most) {
            let time = work.microseconds(blocks, chip.multiprocessors);
            if best.is_none_or(|(least, _)| time < least) {
                best = Some((time, NarrowPlan { kernel: index, blocks }));
            }
        }
    }
    best.map(|(_, plan)| plan)
}

/// What a kernel has to do for a shape.
struct Work<'a> {
    kernel: &'a NarrowKernel,
    row_tiles: u32,
    token_tiles: u32,
    /// Of a tile: units that blocks share.
    chunks: u32,
}

impl<'a> Work<'a> {
    fn new(kernel: &'a NarrowKernel, shape: &StreamShape) -> Self {
        let row_tiles = match shape.store {
            StreamStore::Glu => (shape.rows / 2).div_ceil(kernel.rows / 2),
            _ => shape.rows.div_ceil(kernel.rows),
        };
        let token_tiles = shape.tokens.div_ceil(kernel.tokens);
        let chunks = shape.inputs.div_ceil(kernel.slices * SLICE_COLUMNS);
        Self { kernel, row_tiles, token_tiles, chunks }
    }

    fn tiles(&self) -> u32 {
        self.row_tiles * self.token_tiles
    }

    /// Numbers of blocks worth a look: all tiles whole, or all in so many pieces, or one, two or three
    /// on each multiprocessor.
    fn grids(&self, most: u32) -> Vec<u32> {
        let (tiles, units) = (self.tiles(), self.tiles() * self.chunks);
        if most == 0 {
            return Vec::new();
        }
        let whole = tiles.div_ceil(tiles.div_ceil(most));
        let pieces = (2..=self.chunks).map(|pieces| tiles * pieces);
        let even = (1..=self.kernel.blocks).map(|blocks| most * blocks / self.kernel.blocks);
        [whole]
            .into_iter()
            .chain(pieces.take_while(|blocks| *blocks <= most))
            .chain(even)
            .map(|blocks| blocks.clamp(1, units))
            .collect()
    }

    /// Estimate of the time.
    fn microseconds(&self, blocks: u32, multiprocessors: u32) -> f64 {
        let (tiles, stage) = (self.tiles(), f64::from(self.kernel.stage_bytes()));
        let units = f64::from((tiles * self.chunks).div_ceil(blocks)); // of a block
        let weights = self.row_tiles * self.chunks * self.kernel.slices * self.kernel.rows;
        let weight_bytes = f64::from(weights) * f64::from(2 * SLICE_COLUMNS);
        let memory = weight_bytes / f64::from(multiprocessors) / MEMORY_RATE;
        let waits = units * LATENCY / f64::from(STAGES - 1);
        let takes =
            units * f64::from(blocks.div_ceil(multiprocessors)) * stage / MULTIPROCESSOR_RATE;
        let pieces = (f64::from(self.chunks) / units).ceil();
        let piece = f64::from(self.kernel.sum_bytes()) / PIECE_RATE;
        let adding_up = if tiles.is_multiple_of(blocks) {
            0.0
        } else if blocks.is_multiple_of(tiles) && self.chunks.is_multiple_of(blocks / tiles) {
            pieces * piece
        } else {
            UNEVEN + (pieces + 1.0) * piece
        };
        memory.max(waits).max(takes) + adding_up
    }
}

#[cfg(test)]
mod tests;

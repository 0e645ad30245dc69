//! Which `stream_k_gemm` kernel (`cuda/stream_k_gemm.cu`) serves a gemm of few tokens on images
//! without wgmma, and how it is launched.
//!
//! Pure: from a shape and a chip to a config, the same on all ranks. The estimate was fitted to a
//! sweep over shapes of Qwen3-1.7B and 8B on an H100 (`bench/stream_k_gemm.cu`), where of the grids
//! for a kernel it chose one within 4 % of the best; it was not fitted to other chips. Deliberately
//! absent: the launch itself, and Hopper, for which see `skinny_gemm.rs`.

use crate::chip::Chip;
use crate::gemm::{Epilogue, GemmShape};

/// One of the kernels `stream_k_gemm_{variant}_{type}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamKKernel {
    /// Its place in the name.
    pub variant: &'static str,
    /// Tokens of a tile.
    pub tile_m: u32,
    /// Output features of a tile.
    pub tile_n: u32,
    /// Slices of 64 input features that a stage of the ring holds.
    pub slices: u32,
    /// Warps that share the input features of a stage.
    pub k_warps: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Blocks of a multiprocessor that its registers do for.
    pub blocks: u32,
}

/// All of them, by tokens; the table at the end of `cuda/stream_k_gemm.cu`.
pub const STREAM_K_KERNELS: [StreamKKernel; 5] = [
    kernel("n8", (8, 16), (8, 8), (256, 2)),
    kernel("n16", (16, 32), (4, 4), (128, 2)),
    kernel("n32", (32, 64), (2, 2), (128, 2)),
    kernel("n64", (64, 64), (2, 1), (128, 2)),
    kernel("n128", (128, 64), (1, 1), (128, 3)),
];

const fn kernel(
    variant: &'static str,
    (tile_m, tile_n): (u32, u32),
    (slices, k_warps): (u32, u32),
    (threads, blocks): (u32, u32),
) -> StreamKKernel {
    StreamKKernel { variant, tile_m, tile_n, slices, k_warps, threads, blocks }
}

/// Most tokens of a stream-K gemm.
pub const STREAM_K_M_MAX: u32 = 256;

/// Stages of a ring.
const STAGES: u32 = 3;
/// Input features of a slice.
const SLICE_K: u32 = 64;
/// What a multiprocessor keeps of its shared memory for each block.
const RESERVED_BYTES: u32 = 1024;
/// Up to so many tokens one tile has them all; with more, two smaller tiles may do.
const ONE_TILE_M_MAX: u32 = 16;

/// Microseconds from asking for a stage until it is there.
const LATENCY: f64 = 1.3;
/// Bytes a microsecond that a multiprocessor takes in, and that memory has for each.
const MULTIPROCESSOR_RATE: f64 = 90e3;
const MEMORY_RATE: f64 = 23e3;
/// Bytes a microsecond at which a block adds up the pieces of a tile.
const PARTIAL_RATE: f64 = 40e3;
/// Microseconds that are lost where tiles are not cut into equal pieces.
const UNEVEN: f64 = 1.5;

impl Chip {
    /// Most blocks of any config.
    #[must_use]
    pub fn blocks_max(&self) -> u32 {
        STREAM_K_KERNELS.iter().map(|kernel| kernel.blocks_at_once(self)).max().unwrap_or(0)
    }

    /// Most bytes of partial sums of any config.
    #[must_use]
    pub fn partial_bytes_max(&self) -> usize {
        let bytes = |kernel: &StreamKKernel| {
            2 * kernel.blocks_at_once(self) as usize * kernel.sum_bytes() as usize
        };
        STREAM_K_KERNELS.iter().map(bytes).max().unwrap_or(0)
    }
}

impl StreamKKernel {
    /// Shared memory of a block: the ring, and sums on their way from warp to warp.
    #[must_use]
    pub const fn shared_bytes(&self) -> u32 {
        STAGES * self.stage_bytes() + (self.k_warps - 1) * self.sum_bytes()
    }

    const fn stage_bytes(&self) -> u32 {
        self.slices * (self.tile_n + self.tile_m) * SLICE_K * 2
    }

    /// Bytes of a tile's sums.
    const fn sum_bytes(&self) -> u32 {
        self.tile_n * self.tile_m * 4
    }

    /// Blocks of a chip that run at once; 0 where not even one does.
    fn blocks_at_once(&self, chip: &Chip) -> u32 {
        let room = chip.shared_bytes_max + RESERVED_BYTES;
        (room / (self.shared_bytes() + RESERVED_BYTES)).min(self.blocks) * chip.multiprocessors
    }
}

/// How a stream-K gemm is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamKConfig {
    /// Index into [`STREAM_K_KERNELS`].
    pub kernel: usize,
    /// Blocks, which share the work evenly.
    pub blocks: u32,
}

/// The config for a shape; `None` where no stream-K gemm takes it.
#[must_use]
pub fn stream_k_config(shape: &GemmShape, chip: &Chip) -> Option<StreamKConfig> {
    let GemmShape { m, n, k, epilogue } = *shape;
    let is_odd = epilogue == Epilogue::Glu && !n.is_multiple_of(2);
    let none = m == 0 || n == 0 || k == 0;
    if none || is_odd || !k.is_multiple_of(8) || m > STREAM_K_M_MAX {
        return None;
    }
    let enough = STREAM_K_KERNELS.iter().position(|kernel| kernel.tile_m >= m);
    let last = enough.unwrap_or(STREAM_K_KERNELS.len() - 1);
    let first = if m > ONE_TILE_M_MAX && enough.is_some() { last - 1 } else { last };
    let mut best: Option<(f64, StreamKConfig)> = None;
    // Of equals the larger tile, which reads less.
    for index in (first..=last).rev() {
        let kernel = &STREAM_K_KERNELS[index];
        let (work, most) = (Work::new(kernel, shape), kernel.blocks_at_once(chip));
        if index < last && work.tiles() > most {
            continue; // weights of one tile of tokens are no longer in the cache for the next
        }
        for blocks in work.grids(most) {
            let time = work.microseconds(blocks, chip.multiprocessors);
            if best.is_none_or(|(least, _)| time < least) {
                best = Some((time, StreamKConfig { kernel: index, blocks }));
            }
        }
    }
    best.map(|(_, config)| config)
}

/// What a kernel has to do for a shape.
struct Work<'a> {
    kernel: &'a StreamKKernel,
    n_tiles: u32,
    m_tiles: u32,
    /// Chunks of k of a tile: the units that blocks share.
    chunks: u32,
}

impl<'a> Work<'a> {
    fn new(kernel: &'a StreamKKernel, shape: &GemmShape) -> Self {
        let n_tiles = match shape.epilogue {
            Epilogue::Glu => (shape.n / 2).div_ceil(kernel.tile_n / 2),
            _ => shape.n.div_ceil(kernel.tile_n),
        };
        let m_tiles = shape.m.div_ceil(kernel.tile_m);
        let chunks = shape.k.div_ceil(kernel.slices * SLICE_K);
        Self { kernel, n_tiles, m_tiles, chunks }
    }

    fn tiles(&self) -> u32 {
        self.n_tiles * self.m_tiles
    }

    /// Numbers of blocks worth a look: all tiles whole, or all in so many pieces, or one, two or
    /// three on each multiprocessor.
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
        let weights = self.n_tiles * self.chunks * self.kernel.slices * self.kernel.tile_n;
        let weight_bytes = f64::from(weights) * f64::from(2 * SLICE_K);
        let memory = weight_bytes / f64::from(multiprocessors) / MEMORY_RATE;
        let waits = units * LATENCY / f64::from(STAGES - 1);
        let takes =
            units * f64::from(blocks.div_ceil(multiprocessors)) * stage / MULTIPROCESSOR_RATE;
        let pieces = (f64::from(self.chunks) / units).ceil();
        let piece = f64::from(self.kernel.sum_bytes()) / PARTIAL_RATE;
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

//! Which stream product (`cuda/stream_product.cu`) serves a shape, and how it is launched.
//!
//! Pure: from a shape and a number of multiprocessors to a plan, the same on all ranks. The
//! constants of the estimate (`stream/rates.rs`) were fitted to sweeps over the shapes of Qwen3-1.7B
//! and 8B on an H100 (`bench/products.cu`); above 64 tokens what it chooses for these, and no other
//! model was tried, is within 5 % of the best that was found. Deliberately absent: tensor maps and
//! the launch itself.

mod rates;

use rates::{MEMORY_RATE, Rates};

mod kernels;
#[cfg(test)]
mod tests;

use kernels::{GROUP_ROWS, TILED_TOKENS_MIN};
pub use kernels::{STREAM_KERNELS, StreamKernel};

/// What becomes of a product's sums: `enum StreamStore` of `cuda/fast_params.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum StreamStore {
    /// `out = T(sum + bias)`.
    Store = 0,
    /// `out = T(silu(gate + bias) * (up + bias))`: gate rows, then as many up rows.
    Glu = 1,
    /// `out += sum + bias`, in single precision.
    AddF32 = 2,
    /// `out = sum + bias`, in single precision.
    StoreF32 = 3,
    /// `out = sum`, in single precision, where it is needed, and statistics (`cuda/head_product.cu`).
    Head = 4,
}

/// A product of few tokens with a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamShape {
    /// Rows of the weight, gate and up both counted.
    pub rows: u32,
    /// Columns of the weight.
    pub inputs: u32,
    /// Tokens, padding included.
    pub tokens: u32,
    /// Where the sums go.
    pub store: StreamStore,
}

/// Tokens that these products take at most.
pub const STREAM_TOKENS_MAX: u32 = 256;
/// Tokens of the products that share norms out among them at most.
pub const STREAM_NORM_TOKENS_MAX: u32 = 16;
/// Parts that a token's squares are summed in at most, one of each block of a product.
pub const STREAM_PARTS_MAX: u32 = 160;

/// What a block may take of a Hopper multiprocessor's shared memory.
const SHARED_MAX: u32 = 227 * 1024;
const HEADER_BYTES: u32 = 1024;
const STAGES_MAX: u32 = 24;
/// What a block leaves free for a block of decode attention, which follows what is stored as it is:
/// of products that hold most of what they load at once.
const ATTEND_BYTES: u32 = 88 * 1024;

/// How to launch a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPlan {
    /// Index into [`STREAM_KERNELS`].
    pub kernel: usize,
    /// Weight rows of a tile: rows of the box of the weight's tensor map.
    pub tile_rows: u32,
    /// Stages of the ring.
    pub stages: u32,
    /// Blocks of a cluster.
    pub cluster: u32,
    /// Blocks in all.
    pub blocks: u32,
    /// Tiles that a block takes at most, one after the other.
    pub rounds: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

/// The plan for a shape; `None` where no stream product takes it.
#[must_use]
pub fn stream_plan(shape: &StreamShape, multiprocessors: u32) -> Option<StreamPlan> {
    let StreamShape { rows, inputs, tokens, store } = *shape;
    let aligned = match store {
        StreamStore::Store => rows.is_multiple_of(8),
        StreamStore::Glu => rows.is_multiple_of(16),
        StreamStore::AddF32 | StreamStore::StoreF32 | StreamStore::Head => true,
    };
    if !aligned || rows == 0 || inputs == 0 || !inputs.is_multiple_of(8) || tokens == 0 {
        return None;
    }
    let in_one = STREAM_KERNELS.iter().map(|kernel| kernel.tokens).find(|n| *n >= tokens)?;
    let mut best: Option<(f64, Tiling)> = None;
    for (index, kernel) in STREAM_KERNELS.iter().enumerate() {
        let suits = store != StreamStore::Head || kernel.has_head;
        if kernel.tokens > in_one || kernel.token_tiles(tokens) == 0 || !suits {
            continue;
        }
        for (cluster, tile_rows) in (1..=4).flat_map(|cluster| {
            (16..=kernel.rows_max).step_by(16).map(move |tile_rows| (cluster, tile_rows))
        }) {
            let Some(tiling) = Tiling::new(index, shape, (tile_rows, cluster), multiprocessors)
            else {
                continue;
            };
            let time = tiling.microseconds(shape);
            if best.is_none_or(|(least, _)| time < least) {
                best = Some((time, tiling));
            }
        }
    }
    best.map(|(_, tiling)| tiling.plan(shape))
}

/// A way to cut a weight.
#[derive(Clone, Copy, Debug)]
struct Tiling {
    kernel: usize,
    tile_rows: u32,
    cluster: u32,
    tiles: u32,
    /// How often a cluster takes a tile.
    rounds: u32,
}

impl Tiling {
    fn new(
        kernel: usize,
        shape: &StreamShape,
        (tile_rows, cluster): (u32, u32),
        multiprocessors: u32,
    ) -> Option<Self> {
        // Clusters do not fill a chip whose parts are not multiples of them.
        let at_once = multiprocessors / cluster - if cluster > 2 { 5 } else { 0 };
        let token_tiles = STREAM_KERNELS[kernel].token_tiles(shape.tokens);
        let tiles = shape.rows.div_ceil(tile_rows) * token_tiles;
        let rounds = tiles.div_ceil(at_once.max(1));
        let tiling = Self { kernel, tile_rows, cluster, tiles, rounds };
        // A cluster takes one tile; each of its blocks needs some columns to be worth its while.
        let columns = 128 * cluster * STREAM_KERNELS[kernel].slices;
        let alone = shape.store == StreamStore::Head || rounds > 1 || shape.inputs < columns;
        let shared = cluster > 1 && alone;
        let (_, most, stages_min) = tiling.room(shape);
        (!shared && most >= stages_min).then_some(tiling)
    }

    fn stage_bytes(self) -> u32 {
        let kernel = &STREAM_KERNELS[self.kernel];
        (self.tile_rows + kernel.tokens) * 128 * kernel.slices
    }

    /// Bytes of statistics: `head_bytes` in `cuda/head_race.cuh`.
    fn head_bytes(self, shape: &StreamShape) -> u32 {
        let tile_tokens = STREAM_KERNELS[self.kernel].tokens;
        let tokens = if tile_tokens < TILED_TOKENS_MIN { tile_tokens } else { STREAM_TOKENS_MAX };
        if shape.store == StreamStore::Head { 52 * tokens + 2048 } else { 0 }
    }

    /// What a block loads, in stages.
    fn chunks(self, shape: &StreamShape) -> u32 {
        let columns = 64 * STREAM_KERNELS[self.kernel].slices;
        shape.inputs.div_ceil(columns).div_ceil(self.cluster) * self.rounds
    }

    /// Bytes of the ring beside its stages; how many stages there is room for, and have to be.
    fn room(self, shape: &StreamShape) -> (u32, u32, u32) {
        let kernel = &STREAM_KERNELS[self.kernel];
        // Warpgroups multiply whole, and those without rows not at all.
        let behind = (self.tile_rows.next_multiple_of(GROUP_ROWS) - self.tile_rows) * 128;
        let part = self.chunks(shape).saturating_mul(self.stage_bytes());
        let beside_attend = kernel.folds_norms()
            && shape.store == StreamStore::Store
            && part <= 2 * (SHARED_MAX - ATTEND_BYTES);
        let (left, stages_min) = if beside_attend { (ATTEND_BYTES, 4) } else { (0, 3) };
        let beside = left + HEADER_BYTES + behind + self.head_bytes(shape);
        let stages = (SHARED_MAX - beside) / self.stage_bytes();
        (behind, stages.min(STAGES_MAX), stages_min)
    }

    /// Estimate of the time: the slowest of memory, cache and blocks, and what adds to it.
    fn microseconds(self, shape: &StreamShape) -> f64 {
        let kernel = &STREAM_KERNELS[self.kernel];
        let rates = Rates::of(shape.tokens);
        let [rows, inputs, tokens] = [shape.rows, shape.inputs, kernel.tokens].map(f64::from);
        let [tile_rows, cluster, tiles, rounds] =
            [self.tile_rows, self.cluster, self.tiles, self.rounds].map(f64::from);
        let whole_rows = f64::from(self.tile_rows.next_multiple_of(GROUP_ROWS));
        let weight = 2.0 * rows * inputs;
        let memory = weight / MEMORY_RATE;
        let cache = 2.0 * tiles * (tile_rows + tokens) * inputs / rates.cache;
        let of_block = rounds * inputs / cluster;
        let block = of_block * 2.0 * (tile_rows + tokens) / rates.block;
        let multiply = of_block * whole_rows * tokens / rates.multiply;
        let sums = tile_rows * tokens / 1e4;
        let adding_up = rates.cluster + rates.sums * sums + rates.together * block;
        let no_rows = (whole_rows - tile_rows) / f64::from(GROUP_ROWS);
        memory.max(cache).max(block).max(multiply)
            + if self.cluster > 1 { adding_up } else { 0.0 }
            + (rates.alone + rates.partial * no_rows) * block
            + rates.ends * rounds * sums
            + if self.tile_rows < 32 { rates.narrow } else { 0.0 }
    }

    fn plan(self, shape: &StreamShape) -> StreamPlan {
        let kernel = &STREAM_KERNELS[self.kernel];
        let (behind, room, _) = self.room(shape);
        // No more stages than there is to load: the next kernel's block fits in beside this one.
        let stages = room.min(self.chunks(shape)).max(2);
        // A cluster adds up where the ring was.
        let rows = self.tile_rows + behind / 128;
        let sums = if self.cluster > 1 { rows * kernel.tokens * 4 } else { 0 };
        StreamPlan {
            kernel: self.kernel,
            tile_rows: self.tile_rows,
            stages,
            cluster: self.cluster,
            blocks: self.tiles.div_ceil(self.rounds) * self.cluster,
            rounds: self.rounds,
            shared_bytes: HEADER_BYTES
                + (stages * self.stage_bytes() + behind).max(sums)
                + self.head_bytes(shape),
        }
    }
}

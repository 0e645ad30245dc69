//! Which stream product (`cuda/stream_product.cu`) serves a shape, and how it is launched.
//!
//! Pure: from a shape and a number of multiprocessors to a plan, the same on all ranks. The constants
//! of the estimate were fitted to sweeps over the shapes of Qwen3-1.7B and 8B on an H100; what it
//! chooses there is within 2 % of the best that was found. Deliberately absent: tensor maps and the
//! launch itself.

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

/// One of the kernels `stream_product_n{tokens}_{type}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamKernel {
    /// Tokens that it takes: rows of the box of x's tensor map.
    pub tokens: u32,
    /// Weight rows of a tile at most.
    pub rows_max: u32,
    /// Slices of 64 columns that a stage of the ring holds.
    pub slices: u32,
    /// Threads of a block.
    pub threads: u32,
}

/// All of them, by tokens; the table at the end of `cuda/stream_product.cu`.
pub const STREAM_KERNELS: [StreamKernel; 6] = [
    StreamKernel { tokens: 8, rows_max: 64, slices: 8, threads: 160 },
    StreamKernel { tokens: 16, rows_max: 64, slices: 4, threads: 160 },
    StreamKernel { tokens: 32, rows_max: 64, slices: 4, threads: 160 },
    StreamKernel { tokens: 64, rows_max: 64, slices: 2, threads: 160 },
    StreamKernel { tokens: 96, rows_max: 128, slices: 1, threads: 288 },
    StreamKernel { tokens: 128, rows_max: 128, slices: 1, threads: 288 },
];
/// From here on a library's product is as fast.
pub const STREAM_TOKENS_MAX: u32 = 128;

/// Shared memory that a block may take: what a multiprocessor has, less room for a norm's block.
const SHARED_BYTES: u32 = 222 * 1024;
const BARRIER_BYTES: u32 = 1024;
const STAGES_MAX: u32 = 32;
/// Bytes a microsecond: of memory, of the second-level cache, into one multiprocessor.
const MEMORY_RATE: f64 = 3.05e6;
const CACHE_RATE: f64 = 6.5e6;
const BLOCK_RATE: f64 = 55e3;

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
        StreamStore::AddF32 | StreamStore::StoreF32 => true,
    };
    if !aligned || rows == 0 || inputs == 0 || !inputs.is_multiple_of(8) || tokens == 0 {
        return None;
    }
    let index = STREAM_KERNELS.iter().position(|kernel| kernel.tokens >= tokens)?;
    let kernel = &STREAM_KERNELS[index];
    let mut best: Option<(f64, Tiling)> = None;
    for cluster in [1, 2, 4] {
        for tile_rows in (16..=kernel.rows_max).step_by(16) {
            let Some(tiling) = Tiling::new(kernel, shape, (tile_rows, cluster), multiprocessors)
            else {
                continue;
            };
            let time = tiling.microseconds(kernel, shape);
            if best.is_none_or(|(least, _)| time < least) {
                best = Some((time, tiling));
            }
        }
    }
    best.map(|(_, tiling)| tiling.plan(index))
}

/// A way to cut a weight.
#[derive(Clone, Copy, Debug)]
struct Tiling {
    tile_rows: u32,
    cluster: u32,
    tiles: u32,
    /// How often a cluster takes a tile.
    rounds: u32,
}

impl Tiling {
    fn new(
        kernel: &StreamKernel,
        shape: &StreamShape,
        (tile_rows, cluster): (u32, u32),
        multiprocessors: u32,
    ) -> Option<Self> {
        // Clusters do not fill a chip whose parts are not multiples of them.
        let at_once = multiprocessors / cluster - if cluster > 2 { 5 } else { 0 };
        let tiles = shape.rows.div_ceil(tile_rows);
        let tiling = Self { tile_rows, cluster, tiles, rounds: tiles.div_ceil(at_once.max(1)) };
        // A cluster takes one tile; each of its blocks needs some columns to be worth its while.
        let columns = 128 * cluster * kernel.slices;
        let shared = cluster > 1 && (tiling.rounds > 1 || shape.inputs < columns);
        (!shared && 3 * tiling.stage_bytes(kernel) <= SHARED_BYTES).then_some(tiling)
    }

    fn stage_bytes(self, kernel: &StreamKernel) -> u32 {
        (self.tile_rows + kernel.tokens) * 128 * kernel.slices
    }

    /// Estimate of the time: the slowest of memory, cache and blocks, and what adds to it.
    fn microseconds(self, kernel: &StreamKernel, shape: &StreamShape) -> f64 {
        let [rows, inputs, tokens] = [shape.rows, shape.inputs, kernel.tokens].map(f64::from);
        let [tile_rows, cluster, tiles, rounds] =
            [self.tile_rows, self.cluster, self.tiles, self.rounds].map(f64::from);
        let weight = 2.0 * rows * inputs;
        let memory = weight / MEMORY_RATE;
        let cache = (weight + 2.0 * tiles * tokens * inputs) / CACHE_RATE;
        let block = rounds * 2.0 * (tile_rows + tokens) * inputs / cluster / BLOCK_RATE;
        let adding_up = if self.cluster > 1 { 1.0 } else { 0.0 };
        memory.max(cache).max(block) + adding_up + 0.15 * block
    }

    fn plan(self, index: usize) -> StreamPlan {
        let kernel = &STREAM_KERNELS[index];
        let (stage, rows_max) = (self.stage_bytes(kernel), kernel.rows_max);
        let behind = (rows_max - self.tile_rows) * 128;
        let stages = ((SHARED_BYTES - BARRIER_BYTES - behind) / stage).min(STAGES_MAX);
        // A cluster adds up where the ring was.
        let sums = if self.cluster > 1 { rows_max * kernel.tokens * 4 } else { 0 };
        StreamPlan {
            kernel: index,
            tile_rows: self.tile_rows,
            stages,
            cluster: self.cluster,
            blocks: self.tiles.div_ceil(self.rounds) * self.cluster,
            shared_bytes: BARRIER_BYTES + (stages * stage + behind).max(sums),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rows: u32, inputs: u32, tokens: u32, store: StreamStore) -> StreamPlan {
        stream_plan(&StreamShape { rows, inputs, tokens, store }, 132).expect("a plan")
    }

    /// What sweeps on an H100 found best, or within 2 % of it.
    #[test]
    fn qwen3_shapes() {
        let found = |rows, inputs, tokens, store| {
            let plan = plan(rows, inputs, tokens, store);
            (plan.tile_rows, plan.cluster, plan.blocks)
        };
        assert_eq!(found(6144, 4096, 1, StreamStore::Store), (48, 1, 128));
        assert_eq!(found(4096, 4096, 1, StreamStore::AddF32), (32, 1, 128));
        assert_eq!(found(24576, 4096, 1, StreamStore::Glu), (64, 1, 128));
        assert_eq!(found(4096, 12288, 1, StreamStore::AddF32), (32, 1, 128));
        assert_eq!(found(2048, 2048, 8, StreamStore::AddF32), (16, 1, 128));
        assert_eq!(found(4096, 4096, 64, StreamStore::AddF32), (64, 2, 128));
        assert_eq!(found(6144, 4096, 64, StreamStore::Store), (48, 1, 128));
        assert_eq!(found(151_936, 4096, 8, StreamStore::StoreF32), (64, 1, 132));
    }

    /// Every plan fits the chip and covers the weight.
    #[test]
    fn plans_hold_together() {
        let sizes = [8, 24, 136, 576, 1000, 2048, 5120, 49_152];
        for (rows, inputs) in sizes.iter().flat_map(|rows| sizes.map(|inputs| (*rows, inputs))) {
            for tokens in [1, 8, 9, 33, 64, 65, 97, 128] {
                for multiprocessors in [20, 114, 132, 144] {
                    let shape = StreamShape { rows, inputs, tokens, store: StreamStore::Store };
                    let plan = stream_plan(&shape, multiprocessors).expect("a plan");
                    let kernel = STREAM_KERNELS[plan.kernel];
                    assert!(kernel.tokens >= tokens && plan.tile_rows <= kernel.rows_max);
                    assert!((2..=STAGES_MAX).contains(&plan.stages), "{shape:?} {plan:?}");
                    assert!(plan.shared_bytes <= 227 * 1024, "{shape:?} {plan:?}");
                    let tiles = rows.div_ceil(plan.tile_rows);
                    assert!(plan.blocks.is_multiple_of(plan.cluster));
                    assert!(plan.cluster == 1 || plan.blocks == tiles * plan.cluster);
                    assert!(plan.blocks <= tiles * plan.cluster && plan.blocks <= multiprocessors);
                }
            }
        }
    }

    #[test]
    fn refused_shapes() {
        let shape = StreamShape { rows: 64, inputs: 64, tokens: 1, store: StreamStore::Store };
        let refused = |shape: StreamShape| stream_plan(&shape, 132).is_none();
        assert!(refused(StreamShape { tokens: STREAM_TOKENS_MAX + 1, ..shape }));
        assert!(refused(StreamShape { tokens: 0, ..shape }));
        assert!(refused(StreamShape { inputs: 60, ..shape }));
        assert!(refused(StreamShape { rows: 60, ..shape }));
        assert!(refused(StreamShape { rows: 24, store: StreamStore::Glu, ..shape }));
        assert!(!refused(StreamShape { rows: 61, store: StreamStore::StoreF32, ..shape }));
    }
}

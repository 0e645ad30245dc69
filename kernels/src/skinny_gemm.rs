//! Which `skinny_gemm_sm90` kernel (`cuda/skinny_gemm_sm90.cu`) serves a gemm of few tokens on
//! Hopper, and how it is launched.
//!
//! Pure: from a shape and a number of multiprocessors to a config, the same on all ranks. The
//! constants of the estimate (`skinny_gemm/rates.rs`) were fitted to sweeps over the shapes of
//! Qwen3-1.7B and 8B on an H100 (`bench/skinny_gemm.cu`). Above 64 tokens the configs for these
//! shapes are within 5 % of the best that was found; no other model was tried. Deliberately absent:
//! tensor maps and the launch itself.

mod kernels;
mod rates;
#[cfg(test)]
mod tests;

use crate::gemm::{Epilogue, GemmShape};
pub use kernels::{SKINNY_GEMM_KERNELS, SkinnyGemmKernel};
use kernels::{TILED_M_MIN, WARPGROUP_N};
use rates::{MEMORY_RATE, Rates};

/// Most tokens of a skinny gemm.
pub const SKINNY_GEMM_M_MAX: u32 = 256;
/// Most tokens of gemms that take a share of the norm between them.
pub const FUSED_NORM_M_MAX: u32 = 16;
/// Most partial results of a token, one of each block of a gemm: sums of squares for a fused norm,
/// statistics of logits.
pub const ROW_PARTIALS_MAX: u32 = 160;

/// What a block may take of a Hopper multiprocessor's shared memory.
const SHARED_BYTES_MAX: u32 = 227 * 1024;
const HEADER_BYTES: u32 = 1024;
const STAGES_MAX: u32 = 24;
/// Shared memory [bytes] that a block leaves free for a block of decode attention, the kernel that
/// follows a gemm with `Epilogue::Store`: of gemms that hold most of what they load at once.
const ATTENTION_BYTES: u32 = 88 * 1024;

/// How a skinny gemm is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkinnyGemmConfig {
    /// Index into [`SKINNY_GEMM_KERNELS`].
    pub kernel: usize,
    /// Output features of a tile: rows of the box of the weight's tensor map.
    pub tile_n: u32,
    /// Stages of the ring.
    pub stages: u32,
    /// Blocks of a cluster.
    pub cluster: u32,
    /// Blocks in all.
    pub blocks: u32,
    /// Most tiles of a block, which takes them one after the other.
    pub rounds: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

/// The config for a shape; `None` where no skinny gemm takes it.
#[must_use]
pub fn skinny_gemm_config(shape: &GemmShape, multiprocessors: u32) -> Option<SkinnyGemmConfig> {
    let GemmShape { m, n, k, epilogue } = *shape;
    let aligned = match epilogue {
        Epilogue::Store => n.is_multiple_of(8),
        Epilogue::Glu => n.is_multiple_of(16),
        Epilogue::AddF32 | Epilogue::StoreF32 | Epilogue::LmHead => true,
    };
    if !aligned || n == 0 || k == 0 || !k.is_multiple_of(8) || m == 0 {
        return None;
    }
    let in_one = SKINNY_GEMM_KERNELS.iter().map(|kernel| kernel.tile_m).find(|tile| *tile >= m)?;
    let mut best: Option<(f64, Tiling)> = None;
    for (index, kernel) in SKINNY_GEMM_KERNELS.iter().enumerate() {
        let suits = epilogue != Epilogue::LmHead || kernel.has_lm_head;
        if kernel.tile_m > in_one || kernel.m_tiles(m) == 0 || !suits {
            continue;
        }
        for (cluster, tile_n) in (1..=4).flat_map(|cluster| {
            (16..=kernel.tile_n_max).step_by(16).map(move |tile_n| (cluster, tile_n))
        }) {
            let Some(tiling) = Tiling::new(index, shape, (tile_n, cluster), multiprocessors) else {
                continue;
            };
            let time = tiling.microseconds(shape);
            if best.is_none_or(|(least, _)| time < least) {
                best = Some((time, tiling));
            }
        }
    }
    best.map(|(_, tiling)| tiling.config(shape))
}

/// A way to cut a weight.
#[derive(Clone, Copy, Debug)]
struct Tiling {
    kernel: usize,
    tile_n: u32,
    cluster: u32,
    tiles: u32,
    /// How often a cluster takes a tile.
    rounds: u32,
}

impl Tiling {
    fn new(
        kernel: usize,
        shape: &GemmShape,
        (tile_n, cluster): (u32, u32),
        multiprocessors: u32,
    ) -> Option<Self> {
        // Clusters do not fill a chip whose parts are not multiples of them.
        let at_once = multiprocessors / cluster - if cluster > 2 { 5 } else { 0 };
        let m_tiles = SKINNY_GEMM_KERNELS[kernel].m_tiles(shape.m);
        let tiles = shape.n.div_ceil(tile_n) * m_tiles;
        let rounds = tiles.div_ceil(at_once.max(1));
        let tiling = Self { kernel, tile_n, cluster, tiles, rounds };
        // A cluster takes one tile; each of its blocks needs some of k to be worth its while.
        let least_k = 128 * cluster * SKINNY_GEMM_KERNELS[kernel].slices;
        let alone = shape.epilogue == Epilogue::LmHead || rounds > 1 || shape.k < least_k;
        let shared = cluster > 1 && alone;
        let (_, most, stages_min) = tiling.room(shape);
        (!shared && most >= stages_min).then_some(tiling)
    }

    fn stage_bytes(self) -> u32 {
        let kernel = &SKINNY_GEMM_KERNELS[self.kernel];
        (self.tile_n + kernel.tile_m) * 128 * kernel.slices
    }

    /// Bytes of statistics: `head_bytes` in `cuda/logit_statistics.cuh`.
    fn lm_head_bytes(self, shape: &GemmShape) -> u32 {
        let tile_m = SKINNY_GEMM_KERNELS[self.kernel].tile_m;
        let tokens = if tile_m < TILED_M_MIN { tile_m } else { SKINNY_GEMM_M_MAX };
        if shape.epilogue == Epilogue::LmHead { 52 * tokens + 2048 } else { 0 }
    }

    /// What a block loads, in stages.
    fn chunks(self, shape: &GemmShape) -> u32 {
        let stage_k = 64 * SKINNY_GEMM_KERNELS[self.kernel].slices;
        shape.k.div_ceil(stage_k).div_ceil(self.cluster) * self.rounds
    }

    /// Bytes of the ring beside its stages; how many stages there is room for, and have to be.
    fn room(self, shape: &GemmShape) -> (u32, u32, u32) {
        let kernel = &SKINNY_GEMM_KERNELS[self.kernel];
        // A warpgroup multiplies 64 features or none.
        let behind = (self.tile_n.next_multiple_of(WARPGROUP_N) - self.tile_n) * 128;
        let part = self.chunks(shape).saturating_mul(self.stage_bytes());
        let beside_attention = kernel.folds_norms()
            && shape.epilogue == Epilogue::Store
            && part <= 2 * (SHARED_BYTES_MAX - ATTENTION_BYTES);
        let (left, stages_min) = if beside_attention { (ATTENTION_BYTES, 4) } else { (0, 3) };
        let beside = left + HEADER_BYTES + behind + self.lm_head_bytes(shape);
        let stages = (SHARED_BYTES_MAX - beside) / self.stage_bytes();
        (behind, stages.min(STAGES_MAX), stages_min)
    }

    /// Estimate of the time: the slowest of memory, cache and blocks, and what adds to it.
    fn microseconds(self, shape: &GemmShape) -> f64 {
        let kernel = &SKINNY_GEMM_KERNELS[self.kernel];
        let rates = Rates::of(shape.m);
        let [n, k, tile_m] = [shape.n, shape.k, kernel.tile_m].map(f64::from);
        let [tile_n, cluster, tiles, rounds] =
            [self.tile_n, self.cluster, self.tiles, self.rounds].map(f64::from);
        let whole_n = f64::from(self.tile_n.next_multiple_of(WARPGROUP_N));
        let weight = 2.0 * n * k;
        let memory = weight / MEMORY_RATE;
        let cache = 2.0 * tiles * (tile_n + tile_m) * k / rates.cache;
        let of_block = rounds * k / cluster;
        let block = of_block * 2.0 * (tile_n + tile_m) / rates.block;
        let multiply = of_block * whole_n * tile_m / rates.multiply;
        let sums = tile_n * tile_m / 1e4;
        let adding_up = rates.cluster + rates.sums * sums + rates.together * block;
        let idle_warpgroups = (whole_n - tile_n) / f64::from(WARPGROUP_N);
        memory.max(cache).max(block).max(multiply)
            + if self.cluster > 1 { adding_up } else { 0.0 }
            + (rates.alone + rates.partial * idle_warpgroups) * block
            + rates.ends * rounds * sums
            + if self.tile_n < 32 { rates.narrow } else { 0.0 }
    }

    fn config(self, shape: &GemmShape) -> SkinnyGemmConfig {
        let kernel = &SKINNY_GEMM_KERNELS[self.kernel];
        let (behind, room, _) = self.room(shape);
        // No more stages than there is to load: the next kernel's block fits in beside this one.
        let stages = room.min(self.chunks(shape)).max(2);
        // A cluster adds up where the ring was.
        let summed_n = self.tile_n + behind / 128;
        let sums = if self.cluster > 1 { summed_n * kernel.tile_m * 4 } else { 0 };
        SkinnyGemmConfig {
            kernel: self.kernel,
            tile_n: self.tile_n,
            stages,
            cluster: self.cluster,
            blocks: self.tiles.div_ceil(self.rounds) * self.cluster,
            rounds: self.rounds,
            shared_bytes: HEADER_BYTES
                + (stages * self.stage_bytes() + behind).max(sums)
                + self.lm_head_bytes(shape),
        }
    }
}

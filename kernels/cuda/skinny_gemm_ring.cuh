// skinny_gemm_ring.cuh: shapes of skinny_gemm_sm90.cu's kernels, their shared memory, and which
// work of a gemm is a block's.
#pragma once

#include "gemm_params.h"
#include "ptx.cuh"
#include "skinny_gemm_epilogue.cuh"

namespace skinny_gemm {

constexpr int kTiledTokensMin = 96;

template <int kTileM_, int kWarpgroups_, int kSlices_>
struct Shape {
  static constexpr int kTileM = kTileM_;            // tokens of a tile
  static constexpr int kWarpgroups = kWarpgroups_;  // most consumer warpgroups, 64 features each
  static constexpr int kSlices = kSlices_;  // of 64 k, a stage
  static constexpr int kTileN = 64 * kWarpgroups;
  // Tokens of an instruction: with 256 it would want more registers than threads of so many have.
  static constexpr int kWidth = kTileM > 128 && kWarpgroups == 3 ? kTileM / 2 : kTileM;
  // Many sums need more registers than a block gets evenly: a warpgroup of its own gives the
  // producer's away, as setmaxnreg counts by warpgroups.
  static constexpr bool kReallocatesRegisters = kWarpgroups == 3;
  static constexpr int kConsumers = 128 * kWarpgroups;
  static constexpr int kThreads = kConsumers + (kReallocatesRegisters ? 128 : 32);
  static constexpr int kFragments = kTileM / 8;  // float4 of sums of a consumer thread
  static constexpr bool kFusesNorms = kTileM <= kFusedNormTokensMax;
  // Whether there may be more tokens than a tile has: those of few would only read weights again.
  static constexpr bool kTilesM = kTileM >= kTiledTokensMin;
  // Float4 of a thread's share of a cluster's sums that it asks for at once.
  static constexpr int kBatch = kFragments < 8 ? 1 : kFragments < 16 ? 2 : 4;
};

// Shared memory: barriers and what norms add up, then the ring. A stage holds `slices` tiles of
// weights, 64 k each, then as many of x. Behind the last one may be read, up to a tile, and
// dropped. A cluster, which takes one tile, adds up where the ring was.
constexpr int kStagesMax = 24;
constexpr int kHeaderBytes = 1024,
              kNormBytes = kNormFloats<kFusedNormTokensMax> * 4;  // norms: the header's end
static_assert((2 * kStagesMax + 2) * 8 + kNormBytes <= kHeaderBytes, "barriers, then norms");
__host__ __device__ constexpr int stage_bytes(int n, int tile_n, int slices) {
  return (tile_n + n) * 128 * slices;
}
__host__ __device__ constexpr int shared_bytes(int n, int tile_n, int slices, int stages,
                                               int cluster) {
  const int rows = (tile_n + 63) / 64 * 64;  // of the warpgroups at work
  const int ring = stages * stage_bytes(n, tile_n, slices) + (rows - tile_n) * 128;
  const int sums = cluster > 1 ? rows * n * 4 : 0;
  return kHeaderBytes + (ring > sums ? ring : sums);
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

template <typename S>
struct Ring {
  uint64_t* full;   // [stages]
  uint64_t* empty;  // [stages]
  uint64_t* summed;  // sums are there, of all ranks of the cluster
  uint64_t* read;    // all ranks have read them
  float* norm;       // kNormBytes
  float4* sums;      // [kFragments][consumers]
  uint8_t* stages;
  int count;            // of stages
  int x_offset, bytes;  // of a stage

  __device__ Ring(uint8_t* shared, const SkinnyGemmParams& p)
      : full(reinterpret_cast<uint64_t*>(shared)),
        empty(full + kStagesMax),
        summed(empty + kStagesMax),
        read(summed + 1),
        norm(reinterpret_cast<float*>(shared + kHeaderBytes - kNormBytes)),
        sums(reinterpret_cast<float4*>(shared + kHeaderBytes)),
        stages(shared + kHeaderBytes),
        count(stress::stages(p.stages, 2)),
        x_offset(p.tile_n * 128 * S::kSlices),
        bytes(stage_bytes(S::kTileM, p.tile_n, S::kSlices)) {}
  // Shared memory that nobody reads for a tile.
  __device__ uint8_t* behind(const SkinnyGemmParams& p) const {
    return stages + count * bytes + ((p.tile_n + 63) / 64 * 64 - p.tile_n) * 128;
  }
  __device__ uint8_t* weight(int stage) const { return stages + stage * bytes; }
  __device__ uint8_t* x(int stage) const { return weight(stage) + x_offset; }
};

// A stage of a ring, with the parity of its phase.
struct PipelineState {
  int stage = 0, parity = 0;
  __device__ void next(int stages) {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
};

// A block's work: every clusters-th tile, from `cluster` on; of each, chunks begin .. end of k.
// Tiles of the same features follow each other, so that their weights come from memory once.
struct BlockWork {
  int tiles, cluster, clusters;
  int m_tiles;  // of the same rows
  int rank, ranks;  // in the cluster
  int begin, end;
  __device__ int chunks() const { return end - begin; }
  __device__ int units() const {  // tiles times chunks
    return cluster < tiles ? ((tiles - cluster - 1) / clusters + 1) * chunks() : 0;
  }
};
// Where a tile begins.
struct TileCoord {
  int row, token;
};
template <typename S>
__device__ TileCoord tile_coord(const SkinnyGemmParams& p, const BlockWork& work, int tile) {
  if constexpr (!S::kTilesM) return {tile * p.tile_n, 0};
  return {tile / work.m_tiles * p.tile_n, tile % work.m_tiles * S::kTileM};
}
template <typename S>
__device__ BlockWork block_work(const SkinnyGemmParams& p) {
  BlockWork work;
  const int rows = p.epilogue == EPILOGUE_GLU ? 2 * p.out_features : p.out_features;
  const int chunks = (p.in_features + 64 * S::kSlices - 1) / (64 * S::kSlices);
  work.rank = ptx::cluster_rank(), work.ranks = ptx::cluster_size();
  work.m_tiles = S::kTilesM ? (p.tokens + S::kTileM - 1) / S::kTileM : 1;
  work.tiles = (rows + p.tile_n - 1) / p.tile_n * work.m_tiles;
  work.cluster = blockIdx.x / work.ranks, work.clusters = gridDim.x / work.ranks;
  work.begin = chunks * work.rank / work.ranks, work.end = chunks * (work.rank + 1) / work.ranks;
  return work;
}

#endif

}  // namespace skinny_gemm

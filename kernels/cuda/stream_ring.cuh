// stream_ring.cuh: shapes of stream_product.cu's kernels, their shared memory, and which part of a
// product is a block's.
#pragma once

#include "fast_params.h"
#include "ptx.cuh"
#include "stream_finish.cuh"

namespace stream {

constexpr int kTiledTokensMin = 96;

template <int kN_, int kGroups_, int kSlices_>
struct Shape {
  static constexpr int kN = kN_;            // tokens of a tile
  static constexpr int kGroups = kGroups_;  // consumer warpgroups at most, 64 rows each
  static constexpr int kSlices = kSlices_;  // of 64 k, a stage
  static constexpr int kRows = 64 * kGroups;
  // Tokens of an instruction: with 256 it would want more registers than threads of so many have.
  static constexpr int kWidth = kN > 128 && kGroups == 3 ? kN / 2 : kN;
  // Many sums need more registers than a block gets evenly: a warpgroup of its own gives the
  // producer's away, as setmaxnreg counts by warpgroups.
  static constexpr bool kShiftsRegisters = kGroups == 3;
  static constexpr int kConsumers = 128 * kGroups;
  static constexpr int kThreads = kConsumers + (kShiftsRegisters ? 128 : 32);
  static constexpr int kQuads = kN / 8;  // float4 of sums of a consumer thread
  static constexpr bool kFoldsNorms = kN <= kFoldedTokensMax;
  // Whether there may be more tokens than a tile has: those of few would only read weights again.
  static constexpr bool kTilesTokens = kN >= kTiledTokensMin;
  // Float4 of a thread's share of a cluster's sums that it asks for at once.
  static constexpr int kBatch = kQuads < 8 ? 1 : kQuads < 16 ? 2 : 4;
};

// Shared memory: barriers and what norms add up, then the ring. A stage holds `slices` tiles of
// weights, 64 k each, then as many of x. Behind the last one may be read, up to a tile, and
// dropped. A cluster, which takes one tile, adds up where the ring was.
constexpr int kStagesMax = 24;
constexpr int kHeaderBytes = 1024, kNormBytes = kNormFloats<kFoldedTokensMax> * 4;  // norms: the header's end
static_assert((2 * kStagesMax + 2) * 8 + kNormBytes <= kHeaderBytes, "barriers, then norms");
__host__ __device__ constexpr int stage_bytes(int n, int tile_rows, int slices) {
  return (tile_rows + n) * 128 * slices;
}
__host__ __device__ constexpr int shared_bytes(int n, int tile_rows, int slices, int stages,
                                               int cluster) {
  const int rows = (tile_rows + 63) / 64 * 64;  // of the warpgroups at work
  const int ring = stages * stage_bytes(n, tile_rows, slices) + (rows - tile_rows) * 128;
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
  float4* sums;      // [kQuads][consumers]
  uint8_t* stages;
  int count;            // of stages
  int x_offset, bytes;  // of a stage

  __device__ Ring(uint8_t* shared, const StreamProductParams& p)
      : full(reinterpret_cast<uint64_t*>(shared)),
        empty(full + kStagesMax),
        summed(empty + kStagesMax),
        read(summed + 1),
        norm(reinterpret_cast<float*>(shared + kHeaderBytes - kNormBytes)),
        sums(reinterpret_cast<float4*>(shared + kHeaderBytes)),
        stages(shared + kHeaderBytes),
        count(stress::stages(p.stages, 2)),
        x_offset(p.tile_rows * 128 * S::kSlices),
        bytes(stage_bytes(S::kN, p.tile_rows, S::kSlices)) {}
  // Shared memory that nobody reads for a tile.
  __device__ uint8_t* behind(const StreamProductParams& p) const {
    return stages + count * bytes + ((p.tile_rows + 63) / 64 * 64 - p.tile_rows) * 128;
  }
  __device__ uint8_t* weight(int stage) const { return stages + stage * bytes; }
  __device__ uint8_t* x(int stage) const { return weight(stage) + x_offset; }
};

// A place in a ring of stages, with the parity of its turn.
struct Turn {
  int stage = 0, parity = 0;
  __device__ void next(int stages) {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
};

// This block's part of the product: every clusters-th tile, from `cluster` on; of each, chunks
// begin .. end of k. Tiles of the same rows follow each other, so that their weights come from
// memory once.
struct Part {
  int tiles, cluster, clusters;
  int token_tiles;  // of the same rows
  int rank, ranks;  // in the cluster
  int begin, end;
  __device__ int chunks() const { return end - begin; }
  __device__ int units() const {  // tiles times chunks
    return cluster < tiles ? ((tiles - cluster - 1) / clusters + 1) * chunks() : 0;
  }
};
// Where a tile begins.
struct Corner {
  int row, token;
};
template <typename S>
__device__ Corner corner_of(const StreamProductParams& p, const Part& part, int tile) {
  if constexpr (!S::kTilesTokens) return {tile * p.tile_rows, 0};
  return {tile / part.token_tiles * p.tile_rows, tile % part.token_tiles * S::kN};
}
template <typename S>
__device__ Part part_of_block(const StreamProductParams& p) {
  Part part;
  const int rows = p.store == STREAM_STORE_GLU ? 2 * p.out_rows : p.out_rows;
  const int chunks = (p.inputs + 64 * S::kSlices - 1) / (64 * S::kSlices);
  part.rank = ptx::cluster_rank(), part.ranks = ptx::cluster_size();
  part.token_tiles = S::kTilesTokens ? (p.tokens + S::kN - 1) / S::kN : 1;
  part.tiles = (rows + p.tile_rows - 1) / p.tile_rows * part.token_tiles;
  part.cluster = blockIdx.x / part.ranks, part.clusters = gridDim.x / part.ranks;
  part.begin = chunks * part.rank / part.ranks, part.end = chunks * (part.rank + 1) / part.ranks;
  return part;
}

#endif

}  // namespace stream

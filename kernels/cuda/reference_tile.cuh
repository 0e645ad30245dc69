// reference_tile.cuh: what the reference gemms share: tiles of 64 tokens x 64 features in shared
// memory, multiplied in f32 in one order of k whatever the company, so that a token's result has
// the same bits with any number of tokens; and rows of every format that tiles are loaded from.
#pragma once

#include "common.cuh"
#include "packed_weights.cuh"

namespace binfer {

constexpr int kGemmThreads = 256;
constexpr int kTile = 64;
constexpr int kTileK = 16;
constexpr int kEach = 4;  // a thread has 4 x 4 of the tile

// One operand's tile, k first, so that a thread's four rows lie together.
struct Tile {
  float at[kTileK][kTile + 4];
};
using Sums = float[kEach][kEach];

// Rows of T, `stride` elements apart.
template <typename T>
struct DenseRows {
  const T* rows;
  uint32_t stride;
  __device__ DenseRows(const void* at, uint32_t stride)
      : rows(static_cast<const T*>(at)), stride(stride) {}
  __device__ float operator()(uint32_t row, uint32_t k) const {
    return to_float(rows[static_cast<size_t>(row) * stride + k]);
  }
};

// Rows of a packed format, padded to `stride` elements.
template <typename F>
struct PackedRows {
  const uint8_t* blocks;
  uint32_t row_blocks;
  __device__ PackedRows(const void* at, uint32_t stride)
      : blocks(static_cast<const uint8_t*>(at)), row_blocks(stride / F::kCols) {}
  __device__ float operator()(uint32_t row, uint32_t k) const {
    const uint8_t* block = blocks + packed::block_byte<F>(row, k, row_blocks);
    return packed::value(F{}, block, row % packed::kStripRows, k % F::kCols);
  }
};

// Loads rows first .. first + kTile of `rows`, of which those below `end` exist, from column `k` of
// `in_features` on.
template <typename Rows>
__device__ void load_tile(Tile& tile, const Rows& rows, uint32_t first, uint32_t end, uint32_t k,
                          uint32_t in_features) {
  for (int i = threadIdx.x; i < kTile * kTileK; i += kGemmThreads) {
    const uint32_t row = first + i / kTileK, input = k + i % kTileK;
    const bool real = row < end && input < in_features;
    tile.at[i % kTileK][i / kTileK] = real ? rows(row, input) : 0.0f;
  }
}

__device__ inline void mma_tile(Sums& sums, const Tile& x, const Tile& weight) {
  const int token = threadIdx.x / 16 * kEach, output = threadIdx.x % 16 * kEach;
#pragma unroll
  for (int input = 0; input < kTileK; ++input) {
#pragma unroll
    for (int t = 0; t < kEach; ++t) {
#pragma unroll
      for (int o = 0; o < kEach; ++o) {
        sums[t][o] += x.at[input][token + t] * weight.at[input][output + o];
      }
    }
  }
}

__device__ inline float biased(float sum, const float* bias, size_t row) {
  return bias != nullptr ? sum + bias[row] : sum;
}

}  // namespace binfer

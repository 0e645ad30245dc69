// latent_tile.cuh: a tile of queries of latent attention, 16 heads of one token or of several: what
// comes in, queries and pages of 64 entries of 512 + 64 elements, and what goes out. What happens
// between is in latent_page.cuh.
//
// All heads of a token share its entries, so 16 heads are the 16 rows of mma.sync, and an entry is
// read once for all of them: key with all of its elements, value with the first 512. Entries that
// nobody in the tile sees are zero-filled on the way in: 0 * NaN never happens.
#pragma once

#include "attention_params.h"
#include "fragments.cuh"
#include "heads.cuh"

namespace latent {

using heads::tile_offset;

constexpr int kPage = 64;     // entries
constexpr int kHeads = 16;    // of a tile
constexpr int kEntry = 576;   // elements, of a key and of an absorbed query
constexpr int kLatent = 512;  // elements, of a value
constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kPageBytes = kPage * kEntry * 2;
constexpr float kLog2E = 1.4426950408889634f;

static_assert(heads::tile_is_one_to_one<kEntry>(), "the swizzle of entries");

// A tile's rows, how warps share it, and shared memory in bytes.
template <int kTokens>
struct Tile {
  static constexpr int kRows = kTokens * kHeads;
  static constexpr int kRowWarps = kTokens > 1 ? 2 : 1;
  static constexpr int kColumnWarps = kWarps / kRowWarps;
  static constexpr int kRowTiles = kTokens / kRowWarps;       // tokens of a warp
  static constexpr int kKeyTiles = kPage / 8 / kColumnWarps;  // eights of entries of a warp
  static constexpr int kDims = kLatent / kColumnWarps;        // summed elements of a warp
  static constexpr int kQueries = 0;
  static constexpr int kWeights = kQueries + kRows * kEntry * 2;
  static constexpr int kMaxima = kWeights + kRows * kPage * 2;
  static constexpr int kRing = kMaxima + kColumnWarps * kRows * 4;
  __host__ __device__ static constexpr int bytes(int stages) { return kRing + stages * kPageBytes; }
};

// Where a thread's warp is among those that share a tile.
template <typename L>
struct Place {
  int lane = threadIdx.x % 32;
  int column = threadIdx.x / 32 % L::kColumnWarps;
  int first_token = threadIdx.x / 32 / L::kColumnWarps * L::kRowTiles;
  // Row of the tile that elements 2 `half` and 2 `half` + 1 of an accumulator belong to.
  __device__ int row(int tile, int half) const {
    return (first_token + tile) * kHeads + fragments::accumulator(lane, 2 * half).row;
  }
};

// Running softmax of a warp's rows. A thread's sum is its part until `total` is called.
template <typename L>
struct State {
  float row_max[L::kRowTiles][2], sum[L::kRowTiles][2];
  float out[L::kRowTiles][L::kDims / 8][4];
};

template <typename L>
__device__ void clear(State<L>& state) {
#pragma unroll
  for (int m = 0; m < L::kRowTiles; ++m) {
    state.row_max[m][0] = state.row_max[m][1] = -INFINITY;
    state.sum[m][0] = state.sum[m][1] = 0.0f;
#pragma unroll
    for (int n = 0; n < L::kDims / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) state.out[m][n][i] = 0.0f;
    }
  }
}

// Asks for a page of a slot; entries from position `end` on become zero.
template <typename T>
__device__ void load_page(const LatentAttentionParams& p, uint32_t slot, int page, int end,
                          uint32_t tile) {
  const int block = __ldcg(p.table + size_t(slot) * p.table_stride + page);
  const int chunk = threadIdx.x % 8;
#pragma unroll
  for (int i = 0; i < kPage * 8 / kThreads; ++i) {
    const int token = i * (kThreads / 8) + threadIdx.x / 8;
    const bool is_visible = page * kPage + token < end;
    const T* from = static_cast<const T*>(p.entries) +
                    (size_t(block) * kPage + token) * kEntry + chunk * 8;
    const uint32_t to = tile + tile_offset<kEntry>(token, chunk);
#pragma unroll
    for (int j = 0; j < kEntry / 64; ++j) {
      ptx::copy16_or_zero(to + j * 128, from + j * 64, is_visible);
    }
  }
}

// Queries of `count` tokens, the first of them `token` of the launch; what is missing is zero.
template <typename T, typename L>
__device__ void load_queries(const LatentAttentionParams& p, uint32_t token, int count,
                             int head_tile, uint8_t* shared) {
  constexpr int kChunks = kEntry / 8;
#pragma unroll 5
  for (int i = threadIdx.x; i < L::kRows * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const uint32_t head = head_tile * kHeads + row % kHeads;
    uint4 x = {0, 0, 0, 0};
    if (row / kHeads < count && head < p.heads) {
      const size_t place = size_t(token + row / kHeads) * p.heads + head;
      const T* absorbed = static_cast<const T*>(p.absorbed) + place * kEntry;
      x = __ldcg(reinterpret_cast<const uint4*>(absorbed) + chunk);
    }
    *reinterpret_cast<uint4*>(shared + L::kQueries + tile_offset<kEntry>(row, chunk)) = x;
  }
}

// Makes a row's sum of weights whole, after its last page.
template <typename L>
__device__ void total(State<L>& state, uint8_t* shared) {
  const Place<L> at;
  auto* sums = reinterpret_cast<float*>(shared + L::kMaxima);
#pragma unroll
  for (int m = 0; m < L::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = state.sum[m][half];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      if (at.lane % 4 == 0) sums[at.column * L::kRows + at.row(m, half)] = sum;
    }
  }
  __syncthreads();
#pragma unroll
  for (int m = 0; m < L::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = 0.0f;
#pragma unroll
      for (int c = 0; c < L::kColumnWarps; ++c) sum += sums[c * L::kRows + at.row(m, half)];
      state.sum[m][half] = sum;
    }
  }
}

// Mean latents of `count` tokens, the first of them `token` of the launch; zeros where a token saw
// nothing.
template <typename T, typename L>
__device__ void store(const LatentAttentionParams& p, const State<L>& state, uint32_t token,
                      int count, int head_tile) {
  const Place<L> at;
#pragma unroll
  for (int m = 0; m < L::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t head = head_tile * kHeads + at.row(m, half) % kHeads;
      if (at.first_token + m >= count || head >= p.heads) continue;
      const float sum = state.sum[m][half], factor = sum == 0.0f ? 0.0f : 1.0f / sum;
      const size_t place = size_t(token + at.first_token + m) * p.heads + head;
      T* out = static_cast<T*>(p.sums) + place * kLatent + at.column * L::kDims;
#pragma unroll
      for (int n = 0; n < L::kDims / 8; ++n) {
        const float(&x)[4] = state.out[m][n];
        reinterpret_cast<uint32_t*>(out)[n * 4 + at.lane % 4] =
            ptx::pack<T>(x[2 * half] * factor, x[2 * half + 1] * factor);
      }
    }
  }
}

}  // namespace latent

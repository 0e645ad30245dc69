// stream_k_loader.cuh: what a block of stream_k_gemm.cu has to do, and its way through shared
// memory.
#pragma once

#include "gemm_params.h"
#include "stream_k_layout.cuh"
#include "work_split.cuh"

namespace stream_k {

__device__ inline bool is_glu(const StreamKGemmParams& p) { return p.epilogue == EPILOGUE_GLU; }

// Which tile of rows, and which of tokens.
struct Tile {
  int rows, tokens;
};

// A row of units, each a chunk of k of a tile; unit to end are this block's.
struct Work {
  int chunks, m_tiles, units;
  int unit, end;

  // The tile that a unit belongs to. Neighbours share weights.
  __device__ Tile tile(int unit) const {
    const int tile = unit / chunks;
    return {tile / m_tiles, tile % m_tiles};
  }
};
template <typename S>
__device__ Work work_of_block(const StreamKGemmParams& p) {
  const int rows_of_tile = is_glu(p) ? S::kTileN / 2 : S::kTileN;
  Work work;
  work.chunks = (p.in_features + S::kStageK - 1) / S::kStageK;
  work.m_tiles = (p.tokens + S::kTileM - 1) / S::kTileM;
  work.units =
      (p.out_features + rows_of_tile - 1) / rows_of_tile * work.m_tiles * work.chunks;
  work.unit = work_split::first_unit(work.units, blockIdx.x, gridDim.x);
  work.end = work_split::first_unit(work.units, blockIdx.x + 1, gridDim.x);
  return work;
}

// A thread's part of all copies: the same chunk of 16 bytes of every kRowStep-th row of a stage.
// Rows of a tile are `row`, then `row` + kRowStep, .. without a carry between the two: so what is
// added for the latter is known when this is compiled, but for strides.
template <typename T, typename S>
struct Loader {
  const StreamKGemmParams& p;
  const Work& work;
  int unit, chunk;      // next
  const T *weight, *x;  // of its first row and token
  int features_left, tokens_left;

  __device__ Loader(const StreamKGemmParams& p, const Work& work)
      : p(p), work(work), unit(work.unit), chunk(unit % work.chunks) {
    enter_tile();
  }

  __device__ static Copy own() { return copy<S>(threadIdx.x); }
  // Where its chunk of 16 bytes begins in the unit's chunk.
  __device__ static int k() { return own().slice * kSliceK + own().chunk * 8; }

  // To the unit's tile.
  __device__ void enter_tile() {
    const bool glu = is_glu(p);
    const Tile tile = work.tile(unit);
    const fragments::GluRow gated = fragments::glu_row(own().row);
    const int row =
        glu ? tile.rows * (S::kTileN / 2) + gated.row : tile.rows * S::kTileN + own().row;
    const int token = tile.tokens * S::kTileM + own().row, from = chunk * S::kStageK + k();
    features_left = p.out_features - row, tokens_left = p.tokens - token;
    weight = static_cast<const T*>(p.weight) + from +
             size_t(glu && gated.is_up ? row + p.out_features : row) * p.stride;
    x = static_cast<const T*>(p.x) + from + size_t(token) * p.in_features;
  }

  // Copies the next unit's weights and tokens into a stage.
  __device__ void next(uint32_t stage) {
    if (unit < work.end) {
      const uint32_t slice = stage + own().slice * S::kSliceBytes;
      copy_rows(slice);
      copy_tokens(slice + S::kTileN * kRowBytes);
      ++unit;
      weight += S::kStageK, x += S::kStageK;
      if (++chunk == work.chunks) chunk = 0, enter_tile();
    }
    ptx::copies_commit();
  }

  __device__ bool has_k() const { return chunk * S::kStageK + k() < p.in_features; }

  __device__ void copy_rows(uint32_t to) const {
    const bool glu = is_glu(p), real = has_k();
    // Of 16 rows on, and of 8.
    const size_t by16 = size_t(glu ? 8 : 16) * p.stride;
    const size_t by8 = size_t(glu ? p.out_features : 8) * p.stride;
#pragma unroll
    for (int more = 0; more < S::kTileN; more += S::kRowStep) {
      if (S::kTileN % S::kRowStep != 0 && own().row + more >= S::kTileN) continue;
      const T* from = weight + more / 16 * by16 + more / 8 % 2 * by8 + size_t(more % 8) * p.stride;
      const int out_row = glu ? more / 16 * 8 + more % 8 : more;
      ptx::copy16_or_zero(to + offset(own().row + more, own().chunk), from,
                          real && out_row < features_left);
    }
  }
  __device__ void copy_tokens(uint32_t to) const {
    const bool real = has_k();
#pragma unroll
    for (int more = 0; more < S::kTileM; more += S::kRowStep) {
      if (S::kTileM % S::kRowStep != 0 && own().row + more >= S::kTileM) continue;
      ptx::copy16_or_zero(to + offset(own().row + more, own().chunk),
                          x + size_t(more) * p.in_features, real && more < tokens_left);
    }
  }
};

}  // namespace stream_k

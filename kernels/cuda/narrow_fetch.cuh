// narrow_fetch.cuh: what a block of narrow_product.cu has to do, and its way through shared memory.
#pragma once

#include "fast_params.h"
#include "narrow_layout.cuh"
#include "share.cuh"

namespace narrow {

__device__ inline bool is_glu(const NarrowProductParams& p) { return p.store == STREAM_STORE_GLU; }

// Which tile of rows, and which of tokens.
struct Tile {
  int rows, tokens;
};

// A row of units, each a chunk of k of a tile; unit to end are this block's.
struct Work {
  int chunks, token_tiles, units;
  int unit, end;

  // The tile that a unit belongs to. Neighbours share weights.
  __device__ Tile tile(int unit) const {
    const int tile = unit / chunks;
    return {tile / token_tiles, tile % token_tiles};
  }
};
template <typename S>
__device__ Work work_of_block(const NarrowProductParams& p) {
  const int rows_of_tile = is_glu(p) ? S::kRows / 2 : S::kRows;
  Work work;
  work.chunks = (p.inputs + S::kStageK - 1) / S::kStageK;
  work.token_tiles = (p.tokens + S::kN - 1) / S::kN;
  work.units =
      (p.out_rows + rows_of_tile - 1) / rows_of_tile * work.token_tiles * work.chunks;
  work.unit = share::first_unit(work.units, blockIdx.x, gridDim.x);
  work.end = share::first_unit(work.units, blockIdx.x + 1, gridDim.x);
  return work;
}

// A thread's part of all copies: the same chunk of 16 bytes of every kRowStep-th row of a stage.
// Rows of a tile are `row`, then `row` + kRowStep, .. without a carry between the two: so what is
// added for the latter is known when this is compiled, but for strides.
template <typename T, typename S>
struct Fetcher {
  const NarrowProductParams& p;
  const Work& work;
  int unit, chunk;      // next
  const T *weight, *x;  // of its first row and token
  int rows_left, tokens_left;

  __device__ Fetcher(const NarrowProductParams& p, const Work& work)
      : p(p), work(work), unit(work.unit), chunk(unit % work.chunks) {
    point();
  }

  __device__ static Copy own() { return copy<S>(threadIdx.x); }
  // Where its chunk of 16 bytes begins in the unit's chunk.
  __device__ static int k() { return own().slice * kSliceK + own().chunk * 8; }

  // To the unit's tile.
  __device__ void point() {
    const bool glu = is_glu(p);
    const Tile tile = work.tile(unit);
    const layouts::Gated gated = layouts::gated(own().row);
    const int row =
        glu ? tile.rows * (S::kRows / 2) + gated.row : tile.rows * S::kRows + own().row;
    const int token = tile.tokens * S::kN + own().row, from = chunk * S::kStageK + k();
    rows_left = p.out_rows - row, tokens_left = p.tokens - token;
    weight = static_cast<const T*>(p.weight) + from +
             size_t(glu && gated.is_up ? row + p.out_rows : row) * p.stride;
    x = static_cast<const T*>(p.x) + from + size_t(token) * p.inputs;
  }

  // Copies the next unit's weights and tokens into a stage.
  __device__ void next(uint32_t stage) {
    if (unit < work.end) {
      const uint32_t slice = stage + own().slice * S::kSliceBytes;
      copy_rows(slice);
      copy_tokens(slice + S::kRows * kRowBytes);
      ++unit;
      weight += S::kStageK, x += S::kStageK;
      if (++chunk == work.chunks) chunk = 0, point();
    }
    ptx::copies_commit();
  }

  __device__ bool has_k() const { return chunk * S::kStageK + k() < p.inputs; }

  __device__ void copy_rows(uint32_t to) const {
    const bool glu = is_glu(p), real = has_k();
    // Of 16 rows on, and of 8.
    const size_t by16 = size_t(glu ? 8 : 16) * p.stride;
    const size_t by8 = size_t(glu ? p.out_rows : 8) * p.stride;
#pragma unroll
    for (int more = 0; more < S::kRows; more += S::kRowStep) {
      if (S::kRows % S::kRowStep != 0 && own().row + more >= S::kRows) continue;
      const T* from = weight + more / 16 * by16 + more / 8 % 2 * by8 + size_t(more % 8) * p.stride;
      const int out_row = glu ? more / 16 * 8 + more % 8 : more;
      ptx::copy16_or_zero(to + offset(own().row + more, own().chunk), from, real && out_row < rows_left);
    }
  }
  __device__ void copy_tokens(uint32_t to) const {
    const bool real = has_k();
#pragma unroll
    for (int more = 0; more < S::kN; more += S::kRowStep) {
      if (S::kN % S::kRowStep != 0 && own().row + more >= S::kN) continue;
      ptx::copy16_or_zero(to + offset(own().row + more, own().chunk), x + size_t(more) * p.inputs,
                          real && more < tokens_left);
    }
  }
};

}  // namespace narrow

// narrow_layout.cuh: the shapes of narrow_product.cu: who copies, reads and sums which element, as
// functions for host and device, and the proofs that none is lost, meant twice or in another's bank.
#pragma once

#include "heads.cuh"
#include "layouts.cuh"

namespace narrow {

constexpr int kSliceK = 64;     // a slice of k: of a row
constexpr int kRowBytes = 128;  // 8 chunks of 16

// A block's tile is of kRows weight rows by kN tokens. Its warps stand in a box: by rows, by tokens
// and by slices of k.
template <int N, int kTiles_, int kRowWarps, int kTokenWarps, int kSliceWarps, int kSlices_,
          int kStages_>
struct Shape {
  static constexpr int kN = N;            // tokens of a tile
  static constexpr int kTiles = kTiles_;  // of 16 rows that a warp has
  static constexpr int kRows = 16 * kTiles * kRowWarps;
  static constexpr int kWarpN = N / kTokenWarps;  // tokens that a warp has
  static constexpr int kSlices = kSlices_;        // of a stage
  static constexpr int kStages = kStages_;
  static constexpr int kSummers = 32 * kRowWarps * kTokenWarps;  // threads with slices' first warps
  static constexpr int kWarpsOfK = kSliceWarps;
  static constexpr int kThreads = kSummers * kSliceWarps;
  static constexpr int kQuads = kTiles * kWarpN / 8;  // of sums that a thread has
  static constexpr int kStageK = kSlices * kSliceK;
  static constexpr int kRowStep = kThreads / (8 * kSlices);  // rows that are copied at once
  static constexpr int kSliceBytes = (kRows + N) * kRowBytes;
  static constexpr int kStageBytes = kSlices * kSliceBytes;
  static constexpr int kRingBytes = kStages * kStageBytes;
  static constexpr int kSharedBytes = kRingBytes + (kSliceWarps - 1) * kQuads * kSummers * 16;
  static_assert(kWarpN % 8 == 0 && kSlices % kSliceWarps == 0 && kStages >= 2, "shape");
  static_assert(kThreads % (8 * kSlices) == 0 && (kRowStep & (kRowStep - 1)) == 0, "copies");

  // A warp's first row and token, and the first of its slices.
  __host__ __device__ static constexpr int row_of(int warp) {
    return warp % kRowWarps * 16 * kTiles;
  }
  __host__ __device__ static constexpr int token_of(int warp) {
    return warp / kRowWarps % kTokenWarps * kWarpN;
  }
  __host__ __device__ static constexpr int slice_of(int warp) { return warp / (kSummers / 32); }
};

// Copy number i of a stage's weights, or of its tokens; a thread's first is its own number.
// Neighbours copy what is side by side.
struct Copy {
  int row, slice, chunk;
};
template <typename S>
__host__ __device__ constexpr Copy copy(int i) {
  return {i / (8 * S::kSlices), i / 8 % S::kSlices, i % 8};
}
// Where it lies in its slice's weights or tokens.
__host__ __device__ constexpr int offset(int row, int chunk) {
  return heads::tile_offset<kSliceK>(row, chunk);
}

// What a lane asks ldmatrix for: its row's chunk. Of weights, 16 rows by 16 k from k = 16 step on;
// of tokens, 8 by 32 k from k = 32 half on.
struct Ask {
  int row, chunk;
};
__host__ __device__ constexpr Ask ask_weight(int lane, int step) {
  return {lane % 16, 2 * step + lane / 16};
}
__host__ __device__ constexpr Ask ask_token(int lane, int half) {
  return {lane % 8, 4 * half + lane / 8};
}

// The first sum of quad q of a thread: rows r, r + 8 by tokens t, t + 1.
template <typename S>
__host__ __device__ constexpr layouts::Place quad(int thread, int q) {
  const layouts::Place at = layouts::sum(thread % 32, 4 * (q % (S::kWarpN / 8)));
  return {S::row_of(thread / 32) + q / (S::kWarpN / 8) * 16 + at.row,
          S::token_of(thread / 32) + at.column};
}

// Proofs for whoever compiles this.
template <typename S>
constexpr bool copies_fill_slices(int rows) {
  bool taken[S::kSlices][(S::kRows > S::kN ? S::kRows : S::kN) * 8] = {};
  for (int i = 0; i < rows * 8 * S::kSlices; ++i) {
    const Copy at = copy<S>(i);
    const int place = offset(at.row, at.chunk) / 16;
    if (at.row >= rows || place >= rows * 8 || taken[at.slice][place]) return false;
    taken[at.slice][place] = true;
  }
  return true;
}
template <typename S>
constexpr bool quads_cover_tile() {
  bool taken[S::kRows * S::kN] = {};
  for (int thread = 0; thread < S::kSummers; ++thread) {
    for (int i = 0; i < 4 * S::kQuads; ++i) {
      const layouts::Place first = quad<S>(thread, i / 4);
      const int row = first.row + i / 2 % 2 * 8, token = first.column + i % 2;
      if (row >= S::kRows || token >= S::kN || taken[row * S::kN + token]) return false;
      taken[row * S::kN + token] = true;
    }
  }
  return true;
}
// Register r of a lane has two elements of row lane / 4 of the matrix whose rows lanes 8 r to 8 r + 7
// ask for: just those that mma.sync wants there. The 8 rows of a matrix lie in different banks.
constexpr bool asks_give_operands() {
  for (int r = 0; r < 4; ++r) {
    for (int step = 0; step < 4; ++step) {
      bool weight_banks[8] = {}, token_banks[8] = {};
      for (int row = 0; row < 8; ++row) {
        const Ask weight = ask_weight(8 * r + row, step), token = ask_token(8 * r + row, step / 2);
        bool& weight_bank = weight_banks[offset(weight.row, weight.chunk) / 16 % 8];
        bool& token_bank = token_banks[offset(token.row, token.chunk) / 16 % 8];
        if (weight_bank || token_bank) return false;
        weight_bank = token_bank = true;
        for (int column = 0; column < 8; ++column) {
          const int lane = 4 * row + column / 2, e = column % 2;
          const layouts::Place left = layouts::left(lane, r, e);
          if (left.row != weight.row) return false;
          if (16 * step + left.column != 8 * weight.chunk + column) return false;
          const layouts::Place right = layouts::right(lane, r % 2, e);
          if (right.column != token.row) return false;
          if (32 * (step / 2) + 16 * (r / 2) + right.row != 8 * token.chunk + column) return false;
        }
      }
    }
  }
  return true;
}
static_assert(asks_give_operands(), "operands");

template <typename S>
constexpr bool shape_is_sound() {
  return S::kSharedBytes <= 99 << 10 && copies_fill_slices<S>(S::kRows) && copies_fill_slices<S>(S::kN) && quads_cover_tile<S>();
}

}  // namespace narrow

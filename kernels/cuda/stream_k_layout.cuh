// stream_k_layout.cuh: the shapes of stream_k_gemm.cu: who copies, reads and sums which element, as
// functions for host and device, and the proofs that none is lost, meant twice or in another's
// bank.
#pragma once

#include "fragments.cuh"
#include "heads.cuh"

namespace stream_k {

constexpr int kSliceK = 64;     // a slice of k: of a row
constexpr int kRowBytes = 128;  // 8 chunks of 16

// A block's tile is of kTileN weight rows by kTileM tokens. Its warps stand in a box: by rows, by
// tokens and by slices of k.
template <int N, int kMmasOfN_, int kWarpsOfN, int kWarpsOfM, int kWarpsOfK_, int kSlices_,
          int kStages_>
struct Shape {
  static constexpr int kTileM = N;            // tokens of a tile
  static constexpr int kMmasOfN = kMmasOfN_;  // of 16 rows that a warp has
  static constexpr int kTileN = 16 * kMmasOfN * kWarpsOfN;
  static constexpr int kWarpM = N / kWarpsOfM;  // tokens that a warp has
  static constexpr int kSlices = kSlices_;        // of a stage
  static constexpr int kStages = kStages_;
  static constexpr int kSummers = 32 * kWarpsOfN * kWarpsOfM;  // threads with slices' first warps
  static constexpr int kWarpsOfK = kWarpsOfK_;
  static constexpr int kThreads = kSummers * kWarpsOfK_;
  static constexpr int kFragments = kMmasOfN * kWarpM / 8;  // of sums that a thread has
  static constexpr int kStageK = kSlices * kSliceK;
  static constexpr int kRowStep = kThreads / (8 * kSlices);  // rows that are copied at once
  static constexpr int kSliceBytes = (kTileN + N) * kRowBytes;
  static constexpr int kStageBytes = kSlices * kSliceBytes;
  static constexpr int kRingBytes = kStages * kStageBytes;
  static constexpr int kSharedBytes = kRingBytes + (kWarpsOfK_ - 1) * kFragments * kSummers * 16;
  static_assert(kWarpM % 8 == 0 && kSlices % kWarpsOfK_ == 0 && kStages >= 2, "shape");
  static_assert(kThreads % (8 * kSlices) == 0 && (kRowStep & (kRowStep - 1)) == 0, "copies");

  // A warp's first row and token, and the first of its slices.
  __host__ __device__ static constexpr int row_of(int warp) {
    return warp % kWarpsOfN * 16 * kMmasOfN;
  }
  __host__ __device__ static constexpr int token_of(int warp) {
    return warp / kWarpsOfN % kWarpsOfM * kWarpM;
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
struct LdmatrixCoord {
  int row, chunk;
};
__host__ __device__ constexpr LdmatrixCoord ldmatrix_weight(int lane, int step) {
  return {lane % 16, 2 * step + lane / 16};
}
__host__ __device__ constexpr LdmatrixCoord ldmatrix_token(int lane, int half) {
  return {lane % 8, 4 * half + lane / 8};
}

// The first sum of quad q of a thread: rows r, r + 8 by tokens t, t + 1.
template <typename S>
__host__ __device__ constexpr fragments::MatrixCoord fragment_coord(int thread, int q) {
  const fragments::MatrixCoord at = fragments::accumulator(thread % 32, 4 * (q % (S::kWarpM / 8)));
  return {S::row_of(thread / 32) + q / (S::kWarpM / 8) * 16 + at.row,
          S::token_of(thread / 32) + at.column};
}

// Proofs for whoever compiles this.
template <typename S>
constexpr bool copies_fill_slices(int rows) {
  bool taken[S::kSlices][(S::kTileN > S::kTileM ? S::kTileN : S::kTileM) * 8] = {};
  for (int i = 0; i < rows * 8 * S::kSlices; ++i) {
    const Copy at = copy<S>(i);
    const int place = offset(at.row, at.chunk) / 16;
    if (at.row >= rows || place >= rows * 8 || taken[at.slice][place]) return false;
    taken[at.slice][place] = true;
  }
  return true;
}
template <typename S>
constexpr bool fragments_cover_tile() {
  bool taken[S::kTileN * S::kTileM] = {};
  for (int thread = 0; thread < S::kSummers; ++thread) {
    for (int i = 0; i < 4 * S::kFragments; ++i) {
      const fragments::MatrixCoord first = fragment_coord<S>(thread, i / 4);
      const int row = first.row + i / 2 % 2 * 8, token = first.column + i % 2;
      if (row >= S::kTileN || token >= S::kTileM || taken[row * S::kTileM + token]) return false;
      taken[row * S::kTileM + token] = true;
    }
  }
  return true;
}
// Register r of a lane has two elements of row lane / 4 of the matrix whose rows lanes 8 r to 8 r +
// 7 ask for: just those that mma.sync wants there. The 8 rows of a matrix lie in different banks.
constexpr bool ldmatrix_gives_operands() {
  for (int r = 0; r < 4; ++r) {
    for (int step = 0; step < 4; ++step) {
      bool weight_banks[8] = {}, token_banks[8] = {};
      for (int row = 0; row < 8; ++row) {
        const LdmatrixCoord weight = ldmatrix_weight(8 * r + row, step),
                            token = ldmatrix_token(8 * r + row, step / 2);
        bool& weight_bank = weight_banks[offset(weight.row, weight.chunk) / 16 % 8];
        bool& token_bank = token_banks[offset(token.row, token.chunk) / 16 % 8];
        if (weight_bank || token_bank) return false;
        weight_bank = token_bank = true;
        for (int column = 0; column < 8; ++column) {
          const int lane = 4 * row + column / 2, e = column % 2;
          const fragments::MatrixCoord left = fragments::a_operand(lane, r, e);
          if (left.row != weight.row) return false;
          if (16 * step + left.column != 8 * weight.chunk + column) return false;
          const fragments::MatrixCoord right = fragments::b_operand(lane, r % 2, e);
          if (right.column != token.row) return false;
          if (32 * (step / 2) + 16 * (r / 2) + right.row != 8 * token.chunk + column) return false;
        }
      }
    }
  }
  return true;
}
static_assert(ldmatrix_gives_operands(), "operands");

template <typename S>
constexpr bool shape_is_sound() {
  return S::kSharedBytes <= 99 << 10 && copies_fill_slices<S>(S::kTileN) &&
         copies_fill_slices<S>(S::kTileM) && fragments_cover_tile<S>();
}

}  // namespace stream_k

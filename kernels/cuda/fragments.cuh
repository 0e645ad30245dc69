// fragments.cuh: which element of a matrix lies where in the registers of tensor cores, as
// functions for host and device, and the proofs that no element is lost or meant twice. Tiles in
// shared memory have theirs in heads.cuh.
#pragma once

namespace fragments {

struct MatrixCoord {
  int row, column;
};

// Sums of wgmma, 64 x N: register i of a thread of the warpgroup. Those of mma.sync, 16 x 8, are
// registers 0 to 3 of the first warp.
__host__ __device__ constexpr MatrixCoord accumulator(int thread, int i) {
  return {thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8, i / 4 * 8 + thread % 4 * 2 + i % 2};
}

// The left operand from registers, 16 x 16 a warp: element e of register r of a thread.
__host__ __device__ constexpr MatrixCoord a_operand(int thread, int r, int e) {
  return {thread / 32 * 16 + thread % 32 / 4 + r % 2 * 8, r / 2 * 8 + thread % 4 * 2 + e};
}

// The right operand of mma.sync, 16 x 8: element e of register r of a lane.
__host__ __device__ constexpr MatrixCoord b_operand(int lane, int r, int e) {
  return {r * 8 + lane % 4 * 2 + e, lane / 4};
}

// Weights of gate and up interleaved by eights: row r of a tile.
struct GluRow {
  bool is_up;
  int row;  // of its half
};
__host__ __device__ constexpr GluRow glu_row(int r) { return {r / 8 % 2 == 1, r / 16 * 8 + r % 8}; }

// Proofs for whoever compiles this.
template <int kColumns>
constexpr bool accumulators_are_one_to_one() {
  bool taken[64 * kColumns] = {};
  for (int thread = 0; thread < 128; ++thread) {
    for (int i = 0; i < kColumns / 2; ++i) {
      const MatrixCoord at = accumulator(thread, i);
      const int place = at.row * kColumns + at.column;
      if (place < 0 || place >= 64 * kColumns || taken[place]) return false;
      taken[place] = true;
    }
  }
  return true;
}
static_assert(accumulators_are_one_to_one<8>() && accumulators_are_one_to_one<64>(), "sums");

constexpr bool a_operand_is_one_to_one() {
  bool taken[64 * 16] = {};
  for (int thread = 0; thread < 128; ++thread) {
    for (int i = 0; i < 8; ++i) {
      const MatrixCoord at = a_operand(thread, i / 2, i % 2);
      if (taken[at.row * 16 + at.column]) return false;
      taken[at.row * 16 + at.column] = true;
    }
  }
  return true;
}
static_assert(a_operand_is_one_to_one(), "the left operand");

constexpr bool b_operand_is_one_to_one() {
  bool taken[16 * 8] = {};
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const MatrixCoord at = b_operand(lane, i / 2, i % 2);
      if (taken[at.row * 8 + at.column]) return false;
      taken[at.row * 8 + at.column] = true;
    }
  }
  return true;
}
static_assert(b_operand_is_one_to_one(), "the right operand");

// Attention multiplies what it summed: sums 2 i and 2 i + 1, packed, are register i % 4 of the left
// operand for columns 16 (i / 4) to 16 (i / 4) + 15, in the same thread.
constexpr bool accumulators_become_a_operand() {
  for (int thread = 0; thread < 128; ++thread) {
    for (int i = 0; i < 32; ++i) {
      for (int e = 0; e < 2; ++e) {
        const MatrixCoord from = accumulator(thread, 2 * i + e), to = a_operand(thread, i % 4, e);
        if (from.row != to.row || from.column != 16 * (i / 4) + to.column) return false;
      }
    }
  }
  return true;
}
static_assert(accumulators_become_a_operand(), "weights of attention");

constexpr bool gate_meets_up() {
  bool taken[2][64] = {};
  for (int r = 0; r < 128; ++r) {
    const GluRow at = glu_row(r);
    if (taken[at.is_up][at.row]) return false;
    taken[at.is_up][at.row] = true;
    // Sums r and r + 8 belong to one thread: the same row of gate and of up.
    const GluRow other = glu_row(r + 8);
    if (!at.is_up && (!other.is_up || other.row != at.row)) return false;
  }
  return true;
}
static_assert(gate_meets_up(), "gate and up");

}  // namespace fragments

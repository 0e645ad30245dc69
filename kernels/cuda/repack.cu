// repack.cu: packed weights as checkpoints store them become those of packed_weights.cuh.
//   repack_mxfp4: from blocks of 32: a scale (e8m0), then 16 bytes, byte j with code j in its low
//                 half and code j + 16 in its high half.
//   repack_fp8:   from blocks of 128: a scale (f32), then 128 codes (e4m3).
// With `from` null the weights are random, for measurements: within about 0.03 of 0.
// Grid: (strips, blocks of a row), kRepackThreads threads. What cannot be kept exactly is told in
// `refused`: a scale of MXFP4 out of range, a code of FP8 that is no number.
#include "common.cuh"
#include "moe_params.h"
#include "packed_weights.cuh"

namespace binfer {

constexpr int kRepackThreads = 64;

__device__ inline uint32_t random_bits(uint64_t index, uint64_t seed) {
  uint64_t z = (index + seed) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return static_cast<uint32_t>(z >> 32);
}

// A row of a checkpoint, or of none; columns count from the first that is kept.
struct SourceRow {
  const RepackParams& p;
  uint32_t row;
  __device__ bool has(uint32_t column) const { return row < p.rows && column < p.cols; }
  __device__ const uint8_t* block(uint32_t index, uint32_t bytes) const {
    return p.from + row * p.row_bytes + static_cast<uint64_t>(p.first_block + index) * bytes;
  }
  __device__ uint32_t random(uint32_t column) const {
    return random_bits(static_cast<uint64_t>(row) * p.cols + column, p.seed);
  }
};

__device__ inline uint32_t code_of(packed::Mxfp4 format, const SourceRow& row, uint32_t column) {
  if (!row.has(column)) return 0;
  if (row.p.from == nullptr) return row.random(column) & 15;
  const uint32_t within = column % 32;
  const uint8_t byte = row.block(column / 32, format.kSourceBytes)[1 + within % 16];
  return within < 16 ? byte & 15 : byte >> 4;
}
__device__ inline uint32_t code_of(packed::Fp8 format, const SourceRow& row, uint32_t column) {
  if (!row.has(column)) return 0;
  if (row.p.from == nullptr) return row.random(column) & 0xbf;  // less than 2
  return row.block(column / 128, format.kSourceBytes)[4 + column % 128];
}

// A block of zeros has whatever scale, so it gets one that is in range.
__device__ inline void put_scale(packed::Mxfp4 format, const SourceRow& row, uint32_t column,
                                 uint8_t* to) {
  uint32_t scale = 127;
  if (row.has(column)) {
    scale = row.p.from == nullptr ? 120 : row.block(column / 32, format.kSourceBytes)[0];
    uint32_t any = 0;
    for (uint32_t i = 0; i < 32; ++i) any |= code_of(format, row, column + i) & 7;
    const bool exact = scale >= format.kScaleMin && scale <= format.kScaleMax;
    if (any != 0 && !exact) atomicMax(row.p.refused, 1 + scale);
    if (any == 0 || !exact) scale = 127;
  }
  *to = static_cast<uint8_t>(scale);
}
__device__ inline void put_scale(packed::Fp8 format, const SourceRow& row, uint32_t column,
                                 uint8_t* to) {
  float scale = 1.0f;
  if (row.has(column)) {
    const uint8_t* from = row.p.from == nullptr ? nullptr : row.block(column / 128, 132);
    scale = from == nullptr ? 0.02f : *reinterpret_cast<const float*>(from);
    bool exact = isfinite(scale);
    for (uint32_t i = 0; i < 128; ++i) exact &= (code_of(format, row, column + i) & 127) != 127;
    if (!exact) atomicMax(row.p.refused, 1);
  }
  *reinterpret_cast<float*>(to) = scale;
}

template <typename F>
__device__ void repack(const RepackParams& p) {
  wait_for_previous();
  let_next_start();
  const uint32_t strip = blockIdx.x, block = blockIdx.y;
  const uint32_t first_row = strip * packed::kStripRows, first_column = block * F::kCols;
  uint8_t* to = p.to + packed::block_byte<F>(first_row, first_column, p.row_blocks);
  for (int word = threadIdx.x; word < F::kWords; word += kRepackThreads) {
    uint32_t bits = 0;
    const int row = F::row_of_word(word);
    const SourceRow source = {p, first_row + row};
    for (int column = 0; column < F::kCols; ++column) {
      const packed::CodeCoord at = F::coord(row, column);
      if (at.word == word) bits |= F::put(code_of(F{}, source, first_column + column), at);
    }
    reinterpret_cast<uint32_t*>(to)[word] = bits;
  }
  constexpr int kScales = F::kCols / F::kScaleCols;
  for (int i = threadIdx.x; i < packed::kStripRows * kScales; i += kRepackThreads) {
    const int row = i / kScales, column = i % kScales * F::kScaleCols;
    const SourceRow source = {p, first_row + row};
    put_scale(F{}, source, first_column + column, to + F::scale_byte(row, column));
  }
}

}  // namespace binfer

extern "C" __global__ void __launch_bounds__(binfer::kRepackThreads)
    repack_mxfp4(const __grid_constant__ RepackParams p) {
  binfer::repack<packed::Mxfp4>(p);
}
extern "C" __global__ void __launch_bounds__(binfer::kRepackThreads)
    repack_fp8(const __grid_constant__ RepackParams p) {
  binfer::repack<packed::Fp8>(p);
}

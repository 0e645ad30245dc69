// packed_weights.cuh: how packed weights lie on the device, as functions for host and device, and
// how an element is read back. repack.cu writes them.
//
// Eight rows form a strip, and a strip lies block by block along k. Within a block the bits are in
// the order in which tensor cores want their left operand (fragments.cuh): thread g * 4 + t of a
// warp finds what it multiplies of row g in its own words, whose values become pairs of bf16 with
// shift and mask. A matrix of rows x cols has ceil(rows / 8) strips; rows and columns that are
// padding hold zeros. Blocks begin at multiples of 16 bytes, and a strip's blocks can be copied in
// one piece.
//
//   Mxfp4  64 columns: 64 words of 8 codes (e2m1), then [row][2] scales (e8m0) of 32 columns each.
//          A word holds of one row two steps of 16 k: pairs (2t, 2t+1) and (2t+8, 2t+9) of the
//          first, then of the second, in places A, B, C, D of both halves.
//   Fp8    128 columns: 256 words of 4 codes (e4m3), then [row] scales (f32). A word holds of one
//          row one step of 16 k: pairs (2t, 2t+1) and (2t+8, 2t+9) in places A, B.
#pragma once

#include <cstdint>

namespace packed {

constexpr int kStripRows = 8;

// Where element (row, column) of a block lies: word, the half of the word (0: low), the place.
struct CodeCoord {
  int word, half, place;
};

struct Mxfp4 {
  static constexpr int kCols = 64;         // of a block
  static constexpr int kScaleCols = 32;    // that share a scale
  static constexpr int kWords = 64;        // of codes
  static constexpr int kBytes = 64 * 4 + 16;
  static constexpr int kSourceBytes = 17;  // of 32 columns in a checkpoint
  // Scales 2^(e - 127) of which every product with a code is exact on all ways to multiply: as one
  // factor of bf16 that also moves the exponent from e2m1's bias to that of bf16.
  static constexpr int kScaleMin = 18, kScaleMax = 144;

  __host__ __device__ static constexpr CodeCoord coord(int row, int column) {
    const int step = column / 16, within = column % 16;
    const int lane = row * 4 + within % 8 / 2;
    return {lane * 2 + step / 2, within % 2, step % 2 * 2 + within / 8};
  }
  __host__ __device__ static constexpr int row_of_word(int word) { return word / 8; }
  __host__ __device__ static constexpr int scale_byte(int row, int column) {
    return kWords * 4 + row * 2 + column / kScaleCols;
  }
  // Bits of a code (sign, exponent, mantissa) in the places of a half: A at 15, 8, 7, 6, where bf16
  // has them, B three bits lower, C six, D in what is left.
  __host__ __device__ static constexpr uint32_t put(uint32_t code, CodeCoord at) {
    const uint32_t sign = code >> 3, rest = code & 7;
    uint32_t half = 0;
    if (at.place < 3) {
      half = (sign << 15 | rest << 6) >> 3 * at.place;
    } else {
      half = sign << 14 | (rest >> 2) << 13 | (rest & 3) << 10;
    }
    return half << 16 * at.half;
  }
  __host__ __device__ static constexpr uint32_t get(uint32_t word, CodeCoord at) {
    const uint32_t half = word >> 16 * at.half & 0xffff;
    if (at.place < 3) {
      const uint32_t there = half << 3 * at.place;
      return (there >> 15 & 1) << 3 | (there >> 6 & 7);
    }
    return (half >> 14 & 1) << 3 | (half >> 13 & 1) << 2 | (half >> 10 & 3);
  }
};

struct Fp8 {
  static constexpr int kCols = 128;
  static constexpr int kScaleCols = 128;
  static constexpr int kWords = 256;
  static constexpr int kBytes = 256 * 4 + 32;
  static constexpr int kSourceBytes = 132;  // of 128 columns in a checkpoint

  __host__ __device__ static constexpr CodeCoord coord(int row, int column) {
    const int step = column / 16, within = column % 16;
    const int lane = row * 4 + within % 8 / 2;
    // 64 columns at a time, so that a warp's 16-byte reads meet no bank twice.
    return {step / 4 * 128 + lane * 4 + step % 4, within % 2, within / 8};
  }
  __host__ __device__ static constexpr int row_of_word(int word) { return word % 128 / 16; }
  __host__ __device__ static constexpr int scale_byte(int row, int) {
    return kWords * 4 + row * 4;
  }
  // A: sign at 15, exponent and mantissa at 10 to 4, where bf16 has them; B in what is left.
  __host__ __device__ static constexpr uint32_t put(uint32_t code, CodeCoord at) {
    const uint32_t half = at.place == 0 ? (code >> 7) << 15 | (code & 0x7f) << 4
                                        : (code >> 4) << 11 | (code & 0xf);
    return half << 16 * at.half;
  }
  __host__ __device__ static constexpr uint32_t get(uint32_t word, CodeCoord at) {
    const uint32_t half = word >> 16 * at.half & 0xffff;
    return at.place == 0 ? (half >> 15) << 7 | (half >> 4 & 0x7f)
                         : (half >> 11 & 0xf) << 4 | (half & 0xf);
  }
};

// Proofs for whoever compiles this: no two elements of a block share a bit, and what was put is
// got.
template <typename F, uint32_t kCodes>
constexpr bool codes_are_kept() {
  for (uint32_t code = 0; code < kCodes; ++code) {
    for (int place = 0; place < (kCodes == 16 ? 4 : 2); ++place) {
      for (int half = 0; half < 2; ++half) {
        if (F::get(F::put(code, {0, half, place}), {0, half, place}) != code) return false;
      }
    }
  }
  return true;
}
template <typename F, uint32_t kCodes>
constexpr bool elements_are_apart() {
  uint32_t taken[F::kWords] = {};
  for (int row = 0; row < kStripRows; ++row) {
    for (int column = 0; column < F::kCols; ++column) {
      const CodeCoord at = F::coord(row, column);
      const uint32_t bits = F::put(kCodes - 1, at);
      if (at.word >= F::kWords || (taken[at.word] & bits) != 0) return false;
      if (F::row_of_word(at.word) != row) return false;
      taken[at.word] |= bits;
    }
  }
  for (const uint32_t word : taken) {
    if (word != 0xffffffff) return false;
  }
  return true;
}
static_assert(codes_are_kept<Mxfp4, 16>() && codes_are_kept<Fp8, 256>(), "codes");
static_assert(elements_are_apart<Mxfp4, 16>() && elements_are_apart<Fp8, 256>(), "places");

// Where the block of (row, column) begins, in a matrix whose rows have so many blocks.
template <typename F>
__host__ __device__ constexpr uint64_t block_byte(uint32_t row, uint32_t column,
                                                  uint32_t row_blocks) {
  const uint64_t strip = row / kStripRows;
  return (strip * row_blocks + column / F::kCols) * F::kBytes;
}

// The value of a code of e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
__device__ inline float of_e2m1(uint32_t code) {
  const uint32_t exponent = code >> 1 & 3, mantissa = code & 1;
  const float size = exponent == 0 ? 0.5f * mantissa
                                   : (1.0f + 0.5f * mantissa) * (1u << (exponent - 1));
  return (code & 8) != 0 ? -size : size;
}
// The value of a code of e4m3 that is a number.
__device__ inline float of_e4m3(uint32_t code) {
  const uint32_t exponent = code >> 3 & 15, mantissa = code & 7;
  const float size = exponent == 0
                         ? mantissa * 0x1p-9f
                         : (8 + mantissa) * __uint_as_float((exponent + 127 - 10) << 23);
  return (code & 0x80) != 0 ? -size : size;
}

__device__ inline float value(Mxfp4, const uint8_t* block, int row, int column) {
  const CodeCoord at = Mxfp4::coord(row, column);
  const uint32_t word = reinterpret_cast<const uint32_t*>(block)[at.word];
  const uint32_t scale = block[Mxfp4::scale_byte(row, column)];
  return of_e2m1(Mxfp4::get(word, at)) * __uint_as_float(scale << 23);
}
__device__ inline float value(Fp8, const uint8_t* block, int row, int column) {
  const CodeCoord at = Fp8::coord(row, column);
  const uint32_t word = reinterpret_cast<const uint32_t*>(block)[at.word];
  const float scale = *reinterpret_cast<const float*>(block + Fp8::scale_byte(row, column));
  return of_e4m3(Fp8::get(word, at)) * scale;
}

}  // namespace packed

// moe_gemm_formats.cuh: formats of weights of the grouped gemms on Hopper, and how a warp makes
// left operands of wgmma out of packed ones, which need two strips (packed_weights.cuh).
//
//   MXFP4  Bits become subnormal numbers of bf16 by shift and mask; one product with a power of
//          two, exact, is both the exponent's bias and the scale, but for the factor kRest, which
//          the sums get.
//   FP8    The same with the exponent's bias alone. Scales of a row's 128 columns are for the sums.
#pragma once

#include "packed_weights.cuh"

namespace moe_gemm {

constexpr int kStripsOfWarpgroup = 8;
constexpr int kSlice = 64;  // k of a slice, a row of an operand in shared memory

struct Dense {
  static constexpr bool kIsPacked = false, kHasSlabs = false;
  static constexpr float kRest = 1.0f;
  // Bytes of a slice of 64 rows.
  static constexpr int kRowBytes = 128, kWarpgroupBytes = 64 * kRowBytes;
};
struct Mxfp4 {
  static constexpr bool kIsPacked = true, kHasSlabs = false;
  static constexpr int kSliceBytes = packed::Mxfp4::kBytes;  // of a strip
  static constexpr int kWarpgroupBytes = kStripsOfWarpgroup * kSliceBytes;
  // What products lack of true ones: factors of bf16 reach to scales of 144 so.
  static constexpr float kRest = 0x1p16f;
};
struct Fp8 {
  static constexpr bool kIsPacked = true, kHasSlabs = true;
  static constexpr int kSliceBytes = packed::Fp8::kBytes / 2;
  static constexpr int kWarpgroupBytes = kStripsOfWarpgroup * kSliceBytes;
  static constexpr float kRest = 1.0f;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

__device__ __forceinline__ uint32_t multiply(uint32_t a, uint32_t b) {
  uint32_t product;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
  return product;
}

// Eight weights of a row as two left operands' registers each: of steps 2 i and 2 i + 1, k 2t and
// 2t + 8. `scale` is twice the power of two in both halves.
__device__ __forceinline__ void unpack(uint32_t word, uint32_t scale, uint32_t (&out)[4]) {
  constexpr uint32_t kMask = 0x81c081c0;
  out[0] = multiply(word & kMask, scale);
  out[1] = multiply(word << 3 & kMask, scale);
  out[2] = multiply(word << 6 & kMask, scale);
  const uint32_t last = (word << 1 & 0x80008000) | (word >> 5 & 0x01000100) |
                        (word >> 4 & 0x00c000c0);
  out[3] = multiply(last, scale);
}
// 2^(scale - 127 + 126 - 16) in both halves, as bf16.
__device__ __forceinline__ uint32_t factor(uint32_t scale) { return (scale + 110) * 0x00800080; }

// Left operands of a slice: four steps of 16 k, out of two strips.
__device__ __forceinline__ void left_operands(Mxfp4, const uint8_t* low, const uint8_t* high,
                                              int slice, uint32_t (&a)[4][4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint8_t* strip = (half == 0 ? low : high) + slice * Mxfp4::kSliceBytes;
    const uint2 words = reinterpret_cast<const uint2*>(strip)[lane];
    const uint32_t scales =
        *reinterpret_cast<const uint16_t*>(strip + packed::Mxfp4::kWords * 4 + lane / 4 * 2);
    uint32_t first[4], second[4];
    unpack(words.x, factor(scales & 0xff), first);
    unpack(words.y, factor(scales >> 8), second);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      a[i][half] = first[2 * i], a[i][half + 2] = first[2 * i + 1];
      a[2 + i][half] = second[2 * i], a[2 + i][half + 2] = second[2 * i + 1];
    }
  }
}

// Four weights of a row as two left operands' registers of one step: k 2t and 2t + 8.
__device__ __forceinline__ void unpack(uint32_t word, uint32_t (&out)[2]) {
  constexpr uint32_t kBias = 0x7b807b80;  // 2^(127 - 7)
  out[0] = multiply(word & 0x87f087f0, kBias);
  const uint32_t last = (word << 4 & 0x00f000f0) | (word << 1 & 0x80008000) |
                        (word >> 3 & 0x07000700);
  out[1] = multiply(last, kBias);
}

__device__ __forceinline__ void left_operands(Fp8, const uint8_t* low, const uint8_t* high,
                                              int slice, uint32_t (&a)[4][4]) {
  constexpr int kCodes = packed::Fp8::kWords * 4 / 2;  // bytes of a slice
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint8_t* codes = (half == 0 ? low : high) + slice * kCodes;
    const uint4 words = reinterpret_cast<const uint4*>(codes)[threadIdx.x % 32];
    const uint32_t steps[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t pairs[2];
      unpack(steps[i], pairs);
      a[i][half] = pairs[0], a[i][half + 2] = pairs[1];
    }
  }
}

// The scale of this thread's row of a strip's block.
__device__ __forceinline__ float row_scale(const uint8_t* block) {
  const int row = threadIdx.x % 32 / 4;
  return *reinterpret_cast<const float*>(block + packed::Fp8::scale_byte(row, 0));
}

#endif

}  // namespace moe_gemm

// moe_gemm_kernel.cuh: what becomes of the sums of a grouped gemm on Hopper, and the kernels' body.
// The kernels are in moe_gemm_sm90.cu and moe_gemm_fp8_sm90.cu.
#pragma once

#include "common.cuh"
#include "gemm_params.h"
#include "moe_gemm_sm90.cuh"

namespace moe_gemm {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

__device__ __forceinline__ float gated(const MoeGemmSm90Params& p, float gate, float up) {
  gate = gate > p.limit ? p.limit : gate;  // what is no number stays none
  up = up > p.limit ? p.limit : up < -p.limit ? -p.limit : up;
  return gate / (1.0f + __expf(-p.alpha * gate)) * (up + p.up_offset);
}

// A number to its place. Gemms of packed weights that are no experts' add to f32, or store that.
template <typename T, typename S, bool kIsGlu>
__device__ __forceinline__ void put(const MoeGemmSm90Params& p, size_t at, float value) {
  if constexpr (S::Format::kHasSlabs && !kIsGlu) {
    if (p.epilogue != EPILOGUE_STORE) {
      float* to = static_cast<float*>(p.out) + at;
      *to = p.epilogue == EPILOGUE_ADD_F32 ? *to + value : value;
      return;
    }
  }
  static_cast<T*>(p.out)[at] = binfer::from_float<T>(value);
}

// Sums to out: rows r and r + 8 of the warpgroup, two positions each.
template <typename T, typename S, bool kIsGlu>
__device__ void store(const MoeGemmSm90Params& p, const Work<S, kIsGlu>& work,
                      const float (&sums)[S::kN / 2]) {
  constexpr float kRest = S::Format::kRest;
  const fragments::MatrixCoord at = fragments::accumulator(threadIdx.x % 128, 0);
  const int row = threadIdx.x / 128 * 64 + at.row;  // of the piece; the other one is 8 further
  const uint32_t output = kIsGlu ? work.row_tile * (S::kRows / 2) + row / 16 * 8 + row % 8
                                 : work.row_tile * S::kRows + row;
  const uint32_t other = kIsGlu ? p.out_features + output : output + 8;
  const bool has_row = output < p.out_features, has_other = other < p.out_features;
  const size_t rows = static_cast<size_t>(kIsGlu ? 2 : 1) * p.out_features;
  const float* bias = p.bias == nullptr ? nullptr : p.bias + work.tile.expert * rows;
  const float bias_row = bias != nullptr && has_row ? bias[output] : 0.0f;
  const float bias_other = bias != nullptr && has_row && (kIsGlu || has_other) ? bias[other] : 0.0f;
#pragma unroll
  for (int i = 0; i < S::kN / 2; i += 4) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const uint32_t position = i * 2 + at.column + e;
      if (position >= work.tile.count) continue;
      const float one = sums[i + e] * kRest + bias_row;
      const float two = sums[i + 2 + e] * kRest + bias_other;
      const size_t row = static_cast<size_t>(work.tile.first + position) * p.out_stride;
      if constexpr (kIsGlu) {
        if (has_row) put<T, S, kIsGlu>(p, row + output, gated(p, one, two));
      } else {
        if (has_row) put<T, S, kIsGlu>(p, row + output, one);
        if (has_other) put<T, S, kIsGlu>(p, row + other, two);
      }
    }
  }
}

template <typename T, typename S, bool kIsGlu>
__device__ void run_consumer(const MoeGemmSm90Params& p, const Ring<S>& ring) {
  ptx::wait_for_earlier_kernels();
  const uint32_t slices = (p.in_features + kSlice - 1) / kSlice;
  PipelineState state;
  for (Work<S, kIsGlu> work(p); work.is_there(); work.next()) {
    float sums[S::kN / 2];
    if constexpr (S::Format::kHasSlabs) {
      mainloop_of_slabs<T, S>(ring, slices, state, sums);
    } else {
      mainloop<T, S>(ring, slices, state, sums);
    }
    store<T, S, kIsGlu>(p, work, sums);
  }
}

#endif

template <typename T, typename S, bool kIsGlu>
__device__ void run(const MoeGemmSm90Params& p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t shared[];
  const Ring<S> ring(shared, p.stages);
  if (threadIdx.x == 0) {
    for (int i = 0; i < ring.count; ++i) {
      ptx::mbarrier_init(&ring.full[i], 1);
      ptx::mbarrier_init(&ring.empty[i], S::kConsumers / 32);
    }
    ptx::mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < S::kConsumers) {
    if constexpr (S::kReallocatesRegisters) ptx::registers_take<216>();
    run_consumer<T, S, kIsGlu>(p, ring);
  } else {
    if constexpr (S::kReallocatesRegisters) ptx::registers_give<40>();
    if (threadIdx.x < S::kConsumers + 32) run_producer<S, kIsGlu>(p, ring);
  }
#else
  __trap();
#endif
}

}  // namespace moe_gemm

#define MOE_GEMM(NAME, T, IS_GLU, ...)                                                   \
  extern "C" __global__ void __launch_bounds__(moe_gemm::Shape<__VA_ARGS__>::kThreads, 1) \
      NAME(const __grid_constant__ MoeGemmSm90Params p) {                                \
    moe_gemm::run<T, moe_gemm::Shape<__VA_ARGS__>, IS_GLU>(p);                           \
  }
#define MOE_GEMMS(NAME, SUFFIX, T, ...)                       \
  MOE_GEMM(NAME##SUFFIX, T, false, __VA_ARGS__)               \
  MOE_GEMM(NAME##_glu##SUFFIX, T, true, __VA_ARGS__)

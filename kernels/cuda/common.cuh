// What all kernels share: element types, sums over a block, waiting for the kernel before.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "params.h"
#include "ptx.cuh"

namespace binfer {

__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(float x) { return x; }

template <typename T>
__device__ T from_float(float x);
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ inline __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}

// Waits until the kernel before has ended and its stores are visible. Every kernel calls this on
// every path before it reads what another kernel writes. Without dependent launch it costs nothing;
// images below sm_90a cannot hold the instruction and are never launched so.
__device__ inline void wait_for_previous() { ptx::wait_for_earlier_kernels(); }

// Lets the next kernel's blocks start; they wait as above before they read.
__device__ inline void let_next_start() { ptx::let_next_kernel_start(); }

__device__ inline float silu(float x) { return x / (1.0f + __expf(-x)); }

__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(0xffffffffu, x, lanes);
  return x;
}

__device__ inline float warp_max(float x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lanes));
  return x;
}

// Sum over a block of kThreads, the same on all threads, in a fixed order.
template <int kThreads>
__device__ float block_sum(float x) {
  __shared__ float warps[kThreads / 32];
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0.0f;
#pragma unroll
  for (int warp = 0; warp < kThreads / 32; ++warp) sum += warps[warp];
  return sum;
}

template <int kThreads>
__device__ float block_max(float x) {
  __shared__ float warps[kThreads / 32];
  x = warp_max(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  float largest = warps[0];
#pragma unroll
  for (int warp = 1; warp < kThreads / 32; ++warp) largest = fmaxf(largest, warps[warp]);
  return largest;
}

}  // namespace binfer

// Exports `body<T>` of `params` under a name for each type.
#define BINFER_KERNEL(name, Params, threads)                                            \
  extern "C" __global__ void __launch_bounds__(threads, 1)                               \
      name##_bf16(const __grid_constant__ Params p) { binfer::name<__nv_bfloat16>(p); } \
  extern "C" __global__ void __launch_bounds__(threads, 1)                               \
      name##_f16(const __grid_constant__ Params p) { binfer::name<__half>(p); }

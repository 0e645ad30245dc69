// wide_rows.cu: operations on rows of activations whose width suits 16-byte accesses.
//   rms_norm_wide: out = x / sqrt(mean(x^2) + eps) * scale, from f32 to T. x is read once.
//                  Launch: a block a row of out, kNormThreads threads. cols % 4 == 0, <= 8,192.
//   glu_wide:      out = silu(gate + bias) * (up + bias); sums T [tokens][gate, then up].
//                  Launch: (outputs / 8 / kGluThreads, rounded up, tokens), kGluThreads threads.
//                  outputs % 8 == 0.
// The norm lets the next kernel start before it waits itself, unlike all others: so a gemm
// behind it fills its ring with weights while the one before drains.
#include "gemm_params.h"
#include "ptx.cuh"

namespace wide {

constexpr int kNormThreads = 512, kNormQuads = 4;
constexpr int kGluThreads = 256;

template <typename T>
__device__ void rms_norm(const NormParams& p) {
  __shared__ float warps[kNormThreads / 32];
  ptx::let_next_kernel_start();
  const int quads = p.cols / 4, thread = threadIdx.x;
  float4 scale[kNormQuads], x[kNormQuads];
#pragma unroll
  for (int i = 0; i < kNormQuads; ++i) {
    const int at = thread + i * kNormThreads;
    if (at < quads) scale[i] = reinterpret_cast<const float4*>(p.scale)[at];
  }
  ptx::wait_for_earlier_kernels();
  const uint32_t row = p.gather != nullptr ? p.gather[blockIdx.x].token : blockIdx.x;
  const auto* from = reinterpret_cast<const float4*>(p.x + size_t(row) * p.cols);
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kNormQuads; ++i) {
    const int at = thread + i * kNormThreads;
    if (at >= quads) continue;
    x[i] = __ldcg(from + at);
    squares += x[i].x * x[i].x + x[i].y * x[i].y + x[i].z * x[i].z + x[i].w * x[i].w;
  }
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) squares += __shfl_xor_sync(~0u, squares, lanes);
  if (thread % 32 == 0) warps[thread / 32] = squares;
  __syncthreads();
  squares = 0;
#pragma unroll
  for (int warp = 0; warp < kNormThreads / 32; ++warp) squares += warps[warp];
  const float factor = 1.0f / sqrtf(squares / p.cols + p.eps);
  auto* to = reinterpret_cast<uint2*>(static_cast<T*>(p.out) + size_t(blockIdx.x) * p.cols);
#pragma unroll
  for (int i = 0; i < kNormQuads; ++i) {
    const int at = thread + i * kNormThreads;
    if (at >= quads) continue;
    to[at] = {ptx::pack<T>(x[i].x * factor * scale[i].x, x[i].y * factor * scale[i].y),
              ptx::pack<T>(x[i].z * factor * scale[i].z, x[i].w * factor * scale[i].w)};
  }
}

template <typename T>
__device__ void glu(const EpilogueParams& p) {
  ptx::wait_for_earlier_kernels();
  ptx::let_next_kernel_start();
  const uint32_t first = (blockIdx.x * kGluThreads + threadIdx.x) * 8;
  if (first >= p.out_features) return;
  const T* gates = static_cast<const T*>(p.sums) + size_t(blockIdx.y) * 2 * p.out_features + first;
  const uint4 gate = __ldcs(reinterpret_cast<const uint4*>(gates));
  const uint4 up = __ldcs(reinterpret_cast<const uint4*>(gates + p.out_features));
  const auto bias = [&](uint32_t at) {
    return p.bias == nullptr ? float2{0, 0} : *reinterpret_cast<const float2*>(p.bias + at);
  };
  const auto pair = [&](uint32_t g, uint32_t u, int i) {
    float2 x = ptx::unpack<T>(g), y = ptx::unpack<T>(u);
    const float2 of_x = bias(first + 2 * i), of_y = bias(p.out_features + first + 2 * i);
    x = {x.x + of_x.x, x.y + of_x.y};
    y = {y.x + of_y.x, y.y + of_y.y};
    return ptx::pack<T>(__fdividef(x.x, 1.0f + __expf(-x.x)) * y.x,
                        __fdividef(x.y, 1.0f + __expf(-x.y)) * y.y);
  };
  T* out = static_cast<T*>(p.out) + size_t(blockIdx.y) * p.out_features + first;
  *reinterpret_cast<uint4*>(out) = {pair(gate.x, up.x, 0), pair(gate.y, up.y, 1),
                                    pair(gate.z, up.z, 2), pair(gate.w, up.w, 3)};
}

}  // namespace wide

#define WIDE_ROWS(TYPE, T)                                                                 \
  extern "C" __global__ void __launch_bounds__(wide::kNormThreads)                         \
      rms_norm_wide_##TYPE(const __grid_constant__ NormParams p) {                         \
    wide::rms_norm<T>(p);                                                                  \
  }                                                                                        \
  extern "C" __global__ void __launch_bounds__(wide::kGluThreads)                          \
      glu_wide_##TYPE(const __grid_constant__ EpilogueParams p) {                          \
    wide::glu<T>(p);                                                                       \
  }

WIDE_ROWS(bf16, __nv_bfloat16)
WIDE_ROWS(f16, __half)

// head_gemm.cu: a gemm for each head, out[token][head] = weight[head] x[token][head]: queries into
// the space of latents and sums of latents out of it, in latent attention (MLA).
//
//   x       T [tokens][heads][in_features]        weight  T [heads * out_features][in_features]
//   out     T [tokens][heads][out_features]       strides as HeadGemmParams has them
//
// Tiles of 64 tokens x 32 features of a head by mma.sync, a warp 16 tokens, f32 accumulation in one
// order of k whatever the company. A ring of three stages brings 64 elements of k at a time: by 16
// bytes where addresses and strides are such multiples, else one by one. Weights, which no kernel
// writes, are asked for before the wait for earlier kernels. A token past the end and a k past the
// end are zeros on the way in, so whatever lies there is never multiplied.
//
// Grid: (out_features / 32, tokens / 64, heads), rounded up; 128 threads. Any shape, any alignment.
#include "attention_params.h"
#include "common.cuh"
#include "fragments.cuh"
#include "heads.cuh"

namespace head_gemm {

using binfer::to_float;

constexpr int kTokens = 64, kFeatures = 32, kDepth = 64, kStages = 3;
constexpr int kThreads = 128;
constexpr int kChunk = 8;                    // elements of 16 bytes
constexpr int kChunks = kDepth / kChunk;     // of a row of a stage
constexpr int kRowBytes = kDepth * 2;
constexpr int kStageBytes = (kTokens + kFeatures) * kRowBytes;

// Rows of one operand for one stage.
template <typename T>
struct Rows {
  const T* first;
  uint32_t count;   // that are there
  uint32_t stride;  // elements
  uint32_t depth;   // elements of a row
  bool aligned;     // by 16 bytes, each row and the end of k
};

template <typename T, int kRows>
__device__ void load_rows(const Rows<T>& rows, uint32_t from, uint8_t* tile) {
#pragma unroll
  for (int i = 0; i < kRows * kChunks / kThreads; ++i) {
    const int index = i * kThreads + threadIdx.x, row = index / kChunks, chunk = index % kChunks;
    const uint32_t k = from + chunk * kChunk;
    const T* source = rows.first + static_cast<size_t>(row) * rows.stride + k;
    uint8_t* to = tile + heads::tile_offset<kDepth>(row, chunk);
    const bool is_there = static_cast<uint32_t>(row) < rows.count;
    if (rows.aligned) {
      const bool copies = is_there && k < rows.depth;
      ptx::copy16_or_zero(ptx::shared_address(to), copies ? source : rows.first, copies);
      continue;
    }
#pragma unroll
    for (int e = 0; e < kChunk; ++e) {
      const bool copies = is_there && k + e < rows.depth;
      reinterpret_cast<T*>(to)[e] = copies ? source[e] : binfer::from_float<T>(0.0f);
    }
  }
}

// 16 tokens x 32 features over one stage.
template <typename T>
__device__ void multiply(float (&sums)[kFeatures / 8][4], uint32_t x, uint32_t weight) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, matrix = lane / 8;
#pragma unroll
  for (int k = 0; k < kDepth / 16; ++k) {
    uint32_t a[4];
    ptx::load_matrices(
        a, x + heads::tile_offset<kDepth>(warp * 16 + lane % 16, 2 * k + lane / 16));
#pragma unroll
    for (int n = 0; n < kFeatures / 16; ++n) {
      uint32_t b[4];
      const int feature = n * 16 + matrix / 2 * 8 + lane % 8;
      ptx::load_matrices(b, weight + heads::tile_offset<kDepth>(feature, 2 * k + matrix % 2));
      ptx::Mma<T>::run(sums[2 * n], a, b[0], b[1]);
      ptx::Mma<T>::run(sums[2 * n + 1], a, b[2], b[3]);
    }
  }
}

template <typename T>
__device__ void store(const HeadGemmParams& p, const float (&sums)[kFeatures / 8][4]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  T* out = static_cast<T*>(p.out) + static_cast<size_t>(blockIdx.z) * p.out_head_stride;
#pragma unroll
  for (int n = 0; n < kFeatures / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const fragments::MatrixCoord at = fragments::accumulator(lane, i);
      const uint32_t token = blockIdx.y * kTokens + warp * 16 + at.row;
      const uint32_t feature = blockIdx.x * kFeatures + n * 8 + at.column;
      if (token >= p.tokens || feature >= p.out_features) continue;
      out[static_cast<size_t>(token) * p.out_stride + feature] = binfer::from_float<T>(sums[n][i]);
    }
  }
}

__device__ inline bool is_aligned(const void* at, uint32_t stride, uint32_t other, uint32_t depth) {
  return reinterpret_cast<uint64_t>(at) % 16 == 0 && (stride | other | depth) % kChunk == 0;
}

template <typename T>
__device__ void run(const HeadGemmParams& p) {
  __shared__ __align__(128) uint8_t ring[kStages * kStageBytes];
  const uint32_t token = blockIdx.y * kTokens, feature = blockIdx.x * kFeatures;
  const uint32_t head = blockIdx.z, depth = p.in_features;
  const size_t first_row = static_cast<size_t>(head) * p.out_features + feature;
  const Rows<T> x = {static_cast<const T*>(p.x) + static_cast<size_t>(token) * p.x_stride +
                         static_cast<size_t>(head) * p.x_head_stride,
                     p.tokens - token, p.x_stride, depth,
                     is_aligned(p.x, p.x_stride, p.x_head_stride, depth)};
  const Rows<T> weight = {static_cast<const T*>(p.weight) + first_row * p.weight_stride,
                          p.out_features - feature, p.weight_stride, depth,
                          is_aligned(p.weight, p.weight_stride, 0, depth)};
  const auto stage_x = [&](int stage) { return ring + stage * kStageBytes; };
  const auto stage_weight = [&](int stage) { return stage_x(stage) + kTokens * kRowBytes; };
  const int steps = static_cast<int>((depth + kDepth - 1) / kDepth);
  for (int step = 0; step < kStages - 1 && step < steps; ++step) {
    load_rows<T, kFeatures>(weight, step * kDepth, stage_weight(step));
  }
  binfer::wait_for_previous();
  binfer::let_next_start();
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) load_rows<T, kTokens>(x, step * kDepth, stage_x(step));
    ptx::copies_commit();
  }
  float sums[kFeatures / 8][4] = {};
  const bool has_tokens = token + threadIdx.x / 32 * 16 < p.tokens;
  for (int step = 0; step < steps; ++step) {
    ptx::copies_wait<kStages - 2>();
    __syncthreads();  // the stage is there, and all have left the one that is filled next
    const int next = step + kStages - 1;
    if (next < steps) {
      load_rows<T, kFeatures>(weight, next * kDepth, stage_weight(next % kStages));
      load_rows<T, kTokens>(x, next * kDepth, stage_x(next % kStages));
    }
    ptx::copies_commit();
    if (has_tokens) {
      multiply<T>(sums, ptx::shared_address(stage_x(step % kStages)),
                  ptx::shared_address(stage_weight(step % kStages)));
    }
  }
  store<T>(p, sums);
}

}  // namespace head_gemm

extern "C" __global__ void __launch_bounds__(head_gemm::kThreads)
    head_gemm_bf16(const __grid_constant__ HeadGemmParams p) {
  head_gemm::run<__nv_bfloat16>(p);
}
extern "C" __global__ void __launch_bounds__(head_gemm::kThreads)
    head_gemm_f16(const __grid_constant__ HeadGemmParams p) {
  head_gemm::run<__half>(p);
}

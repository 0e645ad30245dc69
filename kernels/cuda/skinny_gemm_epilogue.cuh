// skinny_gemm_epilogue.cuh: what becomes of skinny_gemm_sm90.cu's sums: bias, activation, residual,
// norms.
//
// Two gemms may share the norm between them, out = x / sqrt(mean(x^2) + eps) * scale. The first
// stores x * scale, rounded to T, and each of its blocks its sums of x^2 of each token. The second
// takes x * scale, adds up the squares in the order of the blocks, and multiplies its own sums by
// 1 / sqrt(..): it is linear. So no kernel stands between the two, and nothing is rounded more
// often than by one. A gemm has such a norm before it or behind it, not both.
#pragma once

#include "fragments.cuh"
#include "gemm_params.h"
#include "ptx.cuh"

namespace skinny_gemm {

// With more tokens norms are not fused: nothing would be gained.
constexpr int kFusedNormTokensMax = 16;
// Of shared memory: squares [4][kTileM], by warps, or [128], by threads; then factors [kTileM].
template <int kTileM>
constexpr int kNormFloats = (4 * kTileM > 128 ? 4 * kTileM : 128) + kTileM;

// The epilogue of a tile. A call takes tokens t, t + 1 of row r, and the same of row r +
// 8, as wgmma spreads them: over a warp 8 tokens by 16 rows. Both are of the tile; norms are folded
// in only where it has all tokens.
template <typename T, int kTileM>
struct TileEpilogue {
  static constexpr int kThreads = 128;  // of the consumers, where norms are folded in
  const SkinnyGemmParams& p;
  float* shared;  // [kNormFloats<kTileM>]
  int first_row, first_token;
  const bool normed, prepares;

  __device__ float* factors() const { return shared + kNormFloats<kTileM> - kTileM; }

  __device__ TileEpilogue(const SkinnyGemmParams& p, float* shared, int first_row, int first_token)
      : p(p), shared(shared), first_row(first_row), first_token(first_token),
        normed(kTileM <= kFusedNormTokensMax && p.squares != nullptr),
        prepares(kTileM <= kFusedNormTokensMax && p.next_scale != nullptr) {}

  __device__ int end_row() const { return min(p.out_features, first_row + p.tile_n); }
  __device__ float* residual(int row, int token) const {
    return static_cast<float*>(p.out) + size_t(token) * p.out_stride + row;
  }

  // Factors of the norm before, from all its sums of squares.
  __device__ void norm_before() const {
    const int thread = threadIdx.x, count = p.partials * kTileM;
    if (prepares) {
      for (int i = thread; i < 4 * kTileM; i += kThreads) shared[i] = 0;
    }
    if (normed) {
      float sum = 0;  // kThreads is a multiple of kTileM: always of the same token
#pragma unroll 8
      for (int i = thread; i < count; i += kThreads) sum += __ldcg(p.squares + i);
      shared[thread] = sum;
      ptx::barrier_sync(1, kThreads);
      sum = 0;
      if (thread < kTileM) {
#pragma unroll
        for (int i = 0; i < kThreads; i += kTileM) sum += shared[i + thread];
        factors()[thread] = 1.0f / sqrtf(sum / p.in_features + p.eps);
      }
    }
    ptx::barrier_sync(1, kThreads);
  }
  // What is there, where the next norm is prepared.
  __device__ float4 before(int r, int t) const {
    float4 x = {0, 0, 0, 0};
    if (!prepares) return x;
    const int row = first_row + r, end = end_row();
    const bool even = t < p.tokens, odd = t + 1 < p.tokens;
    if (row < end && even) x.x = __ldcg(residual(row, t));
    if (row < end && odd) x.y = __ldcg(residual(row, t + 1));
    if (row + 8 < end && even) x.z = __ldcg(residual(row + 8, t));
    if (row + 8 < end && odd) x.w = __ldcg(residual(row + 8, t + 1));
    return x;
  }
  // Sums of squares of all features of this block, for the next norm.
  __device__ void norm_behind(int part) const {
    if (!prepares) return;
    ptx::barrier_sync(1, kThreads);
    if (threadIdx.x >= kTileM) return;
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < 4; ++warp) sum += shared[warp * kTileM + threadIdx.x];
    p.next_squares[part * kTileM + threadIdx.x] = sum;
  }

  __device__ void store_t(void* to, int row, int end, int t, float even, float odd) const {
    const int lane = threadIdx.x % 32;
    const uint32_t pair = ptx::transpose(ptx::pack<T>(even, odd));  // now 2 rows of one token
    const int token = t - 2 * (lane % 4) + lane / 4;
    row += 2 * (lane % 4) - lane / 4;
    if (row >= end || token >= p.tokens) return;
    T* out = static_cast<T*>(to) + size_t(token) * p.out_stride + row;
    *reinterpret_cast<uint32_t*>(out) = pair;
  }
  __device__ void store_f32(int row, int end, int token, float x) const {
    if (row >= end || token >= p.tokens) return;
    if (p.epilogue == EPILOGUE_ADD_F32 && !prepares) {
      atomicAdd(residual(row, token),
                x);  // nobody else adds; so no thread waits for what was there
    } else {
      *residual(row, token) = x;
    }
  }
  // Gate and up: 16 rows are 8 of gate, then 8 of up.
  __device__ void glu_out(int r, int t, float4 sum) const {
    const int row = first_row / 2 + fragments::glu_row(r).row;
    const int end = min(p.out_features, (first_row + p.tile_n) / 2);
    const bool biased = p.bias != nullptr && row < end;
    const float gate = biased ? p.bias[row] : 0.0f;
    const float up = biased ? p.bias[p.out_features + row] : 0.0f;
    const auto glu = [](float x, float y) { return __fdividef(x, 1.0f + __expf(-x)) * y; };
    store_t(p.out, row, end, t, glu(sum.x + gate, sum.z + up), glu(sum.y + gate, sum.w + up));
  }
  // The new residual's share of the next norm.
  __device__ void prepare(int row, int end, int t, float4 x) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const float scale = row < end ? p.next_scale[row] : 0.0f;
    const float scale8 = row + 8 < end ? p.next_scale[row + 8] : 0.0f;
    store_t(p.next_x, row, end, t, x.x * scale, x.y * scale);
    store_t(p.next_x, row + 8, end, t, x.z * scale8, x.w * scale8);
    float even = row < end ? x.x * x.x : 0.0f, odd = row < end ? x.y * x.y : 0.0f;
    if (row + 8 < end) even += x.z * x.z, odd += x.w * x.w;
#pragma unroll
    for (int lanes = 16; lanes >= 4; lanes /= 2) {
      even += __shfl_xor_sync(~0u, even, lanes);
      odd += __shfl_xor_sync(~0u, odd, lanes);
    }
    if (lane < 4) shared[warp * kTileM + t] = even, shared[warp * kTileM + t + 1] = odd;
  }
  __device__ void out(int r, int t, float4 sum, float4 before) const {
    if (normed) {
      const float even = factors()[t], odd = factors()[t + 1];
      sum = {sum.x * even, sum.y * odd, sum.z * even, sum.w * odd};
    }
    t += first_token;
    if (p.epilogue == EPILOGUE_GLU) return glu_out(r, t, sum);
    const int row = first_row + r, end = end_row();
    const float bias = p.bias != nullptr && row < end ? p.bias[row] : 0.0f;
    const float bias8 = p.bias != nullptr && row + 8 < end ? p.bias[row + 8] : 0.0f;
    sum = {sum.x + bias, sum.y + bias, sum.z + bias8, sum.w + bias8};
    if (p.epilogue == EPILOGUE_STORE) {
      store_t(p.out, row, end, t, sum.x, sum.y);
      store_t(p.out, row + 8, end, t, sum.z, sum.w);
      return;
    }
    if (prepares) {
      sum = {before.x + sum.x, before.y + sum.y, before.z + sum.z, before.w + sum.w};
      prepare(row, end, t, sum);
    }
    store_f32(row, end, t, sum.x);
    store_f32(row, end, t + 1, sum.y);
    store_f32(row + 8, end, t, sum.z);
    store_f32(row + 8, end, t + 1, sum.w);
  }
};

}  // namespace skinny_gemm

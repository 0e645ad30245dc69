// decode_slice.cuh: scores, softmax and sums of a warp over its 16 tokens of a page.
#pragma once

#include "fragments.cuh"
#include "heads.cuh"

namespace decode {

using heads::tile_offset;

// Running softmax of a warp over its slices: rows g = lane / 4 and g + 8 of the query heads.
template <int kDim>
struct SoftmaxState {
  float row_max[2], sum[2];  // the sum is this thread's part
  float out[kDim / 8][4];    // elements 8 n + 2 (lane % 4) and the next
};

// One slice: scores, weights, values.
template <typename T, int kDim>
__device__ void attention_slice(SoftmaxState<kDim>& state, const uint32_t (&queries)[kDim / 16][4],
                             uint32_t keys, uint32_t values, float scale, Span places) {
  const int lane = threadIdx.x % 32, matrix = lane / 8;
  float scores[2][4] = {};
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    uint32_t b[4];
    ptx::load_matrices(b, keys + tile_offset<kDim>(matrix / 2 * 8 + lane % 8, 2 * k + matrix % 2));
    ptx::Mma<T>::run(scores[0], queries[k], b[0], b[1]);
    ptx::Mma<T>::run(scores[1], queries[k], b[2], b[3]);
  }
  uint32_t weights[4];
  float factors[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {  // rows g, then g + 8
    float s[4], row_max = state.row_max[half];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int place = fragments::accumulator(lane, i / 2 * 4 + i % 2).column;
      const bool is_visible = place >= places.first && place < places.end;
      s[i] = is_visible ? scores[i / 2][2 * half + i % 2] * scale : -INFINITY;
      row_max = fmaxf(row_max, s[i]);
    }
    row_max = fmaxf(row_max, __shfl_xor_sync(~0u, row_max, 1));
    row_max = fmaxf(row_max, __shfl_xor_sync(~0u, row_max, 2));
    const float base = row_max == -INFINITY ? 0.0f : row_max;  // nothing seen yet
    factors[half] = ptx::exp2_approximate(state.row_max[half] - base);
    state.row_max[half] = row_max;
#pragma unroll
    for (int i = 0; i < 4; ++i) s[i] = ptx::exp2_approximate(s[i] - base);
    state.sum[half] = state.sum[half] * factors[half] + (s[0] + s[1]) + (s[2] + s[3]);
    weights[half] = ptx::pack<T>(s[0], s[1]);
    weights[half + 2] = ptx::pack<T>(s[2], s[3]);
  }
#pragma unroll
  for (int n = 0; n < kDim / 16; ++n) {
    uint32_t b[4];
    ptx::load_matrices_transposed(
        b, values + tile_offset<kDim>(matrix % 2 * 8 + lane % 8, 2 * n + matrix / 2));
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float(&out)[4] = state.out[2 * n + j];
#pragma unroll
      for (int i = 0; i < 4; ++i) out[i] *= factors[i / 2];
      ptx::Mma<T>::run(out, weights, b[2 * j], b[2 * j + 1]);
    }
  }
}

}  // namespace decode

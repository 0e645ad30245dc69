// stream_finish.cuh: the way out of stream_product.cu's sums.
#pragma once

#include "fast_params.h"
#include "ptx.cuh"

namespace stream {

// Bias, activation and the way out of four sums: tokens t, t + 1 of row r, and the same of row r +
// 8, as wgmma spreads them: over a warp 8 tokens by 16 rows. `first_row` and `r` are of the
// weight.
template <typename T>
__device__ void finish(const StreamProductParams& p, int first_row, int r, int t, float4 sum) {
  const int lane = threadIdx.x % 32;
  const auto store_t = [&](int row, int end, float even, float odd) {
    const uint32_t pair = ptx::transpose(ptx::pack<T>(even, odd));  // now 2 rows of one token
    const int token = t - 2 * (lane % 4) + lane / 4;
    row += 2 * (lane % 4) - lane / 4;
    if (row >= end || token >= p.tokens) return;
    T* out = static_cast<T*>(p.out) + size_t(token) * p.out_stride + row;
    *reinterpret_cast<uint32_t*>(out) = pair;
  };
  const auto store_f32 = [&](int row, int end, int token, float x) {
    if (row >= end || token >= p.tokens) return;
    float* out = static_cast<float*>(p.out) + size_t(token) * p.out_stride + row;
    if (p.store == STREAM_ADD_F32) {
      atomicAdd(out, x);  // nobody else adds; so no thread waits for what was there
    } else {
      *out = x;
    }
  };
  if (p.store == STREAM_STORE_GLU) {  // 16 rows are 8 of gate, then 8 of up
    const int row = first_row / 2 + r / 16 * 8 + r % 8;
    const int end = min(p.out_rows, (first_row + p.tile_rows) / 2);
    const bool biased = p.bias != nullptr && row < end;
    const float gate = biased ? p.bias[row] : 0.0f;
    const float up = biased ? p.bias[p.out_rows + row] : 0.0f;
    const auto glu = [](float x, float y) { return __fdividef(x, 1.0f + __expf(-x)) * y; };
    store_t(row, end, glu(sum.x + gate, sum.z + up), glu(sum.y + gate, sum.w + up));
    return;
  }
  const int row = first_row + r, end = min(p.out_rows, first_row + p.tile_rows);
  const float bias = p.bias != nullptr && row < end ? p.bias[row] : 0.0f;
  const float bias8 = p.bias != nullptr && row + 8 < end ? p.bias[row + 8] : 0.0f;
  if (p.store == STREAM_STORE) {
    store_t(row, end, sum.x + bias, sum.y + bias);
    store_t(row + 8, end, sum.z + bias8, sum.w + bias8);
  } else {
    store_f32(row, end, t, sum.x + bias);
    store_f32(row, end, t + 1, sum.y + bias);
    store_f32(row + 8, end, t, sum.z + bias8);
    store_f32(row + 8, end, t + 1, sum.w + bias8);
  }
}

}  // namespace stream

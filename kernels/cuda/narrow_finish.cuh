// narrow_finish.cuh: the way out of narrow_product.cu's sums: of warps, of blocks, to memory.
#pragma once

#include "common.cuh"
#include "narrow_fetch.cuh"

namespace narrow {

__device__ inline float4 add(float4 a, float4 b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}

// A tile's sums from all warps that have a part of its k to the first of them, in order.
template <typename S>
__device__ void add_up_warps(float4 (&quads)[S::kQuads], float4* shared) {
  if constexpr (S::kWarpsOfK > 1) {
    const int part = threadIdx.x / S::kSummers, summer = threadIdx.x % S::kSummers;
    if (part > 0) {
#pragma unroll
      for (int q = 0; q < S::kQuads; ++q) {
        shared[((part - 1) * S::kQuads + q) * S::kSummers + summer] = quads[q];
      }
    }
    __syncthreads();
    if (part > 0) return;
#pragma unroll
    for (int other = 0; other < S::kWarpsOfK - 1; ++other) {
#pragma unroll
      for (int q = 0; q < S::kQuads; ++q) {
        quads[q] = add(quads[q], shared[(other * S::kQuads + q) * S::kSummers + summer]);
      }
    }
  }
}

// Adds up the pieces of a tile that several blocks have a part of, in the order of k; the last
// block to arrive does it. True where the sums are whole now.
template <typename S>
__device__ bool add_up_blocks(const NarrowProductParams& p, const share::Pieces& pieces,
                              float4 (&quads)[S::kQuads]) {
  const int thread = threadIdx.x;
  const auto place = [&](int block) {
    return reinterpret_cast<float4*>(p.pieces) +
           size_t(pieces.slot(block)) * (S::kQuads * S::kSummers) + thread;
  };
  if (thread < S::kSummers) {
#pragma unroll
    for (int q = 0; q < S::kQuads; ++q) __stcg(place(blockIdx.x) + q * S::kSummers, quads[q]);
  }
  __syncthreads();
  bool is_last = false;
  if (thread == 0) {
    uint32_t* arrivals = &p.arrivals[pieces.first];  // no other tile's pieces begin there
    is_last = ptx::add_acquire_release(arrivals, 1) == uint32_t(pieces.count() - 1);
    if (is_last) *arrivals = 0;
  }
  if (!__syncthreads_or(is_last)) return false;
  if (thread >= S::kSummers) return true;
#pragma unroll
  for (int q = 0; q < S::kQuads; ++q) quads[q] = {0, 0, 0, 0};
#pragma unroll(S::kQuads < 4 ? 4 : 1)
  for (int block = pieces.first; block <= pieces.last; ++block) {
    const float4* from = place(block);
#pragma unroll
    for (int q = 0; q < S::kQuads; ++q) quads[q] = add(quads[q], __ldcg(from + q * S::kSummers));
  }
  return true;
}

// Two tokens of a row.
template <typename To>
__device__ void put(const NarrowProductParams& p, int row, int token, To even, To odd) {
  To* to = static_cast<To*>(p.out) + size_t(token) * p.out_stride + row;
  if (token < p.tokens) to[0] = even;
  if (token + 1 < p.tokens) to[p.out_stride] = odd;
}
// Nobody else adds there; so no thread waits for what was there.
__device__ inline void put_more(const NarrowProductParams& p, int row, int token, float even,
                                float odd) {
  float* to = static_cast<float*>(p.out) + size_t(token) * p.out_stride + row;
  if (token < p.tokens) atomicAdd(to, even);
  if (token + 1 < p.tokens) atomicAdd(to + p.out_stride, odd);
}
__device__ inline float bias_of(const NarrowProductParams& p, int row) {
  return p.bias != nullptr ? p.bias[row] : 0.0f;
}

// A tile's sums to memory: quad q has rows r and r + 8 by tokens t and t + 1.
template <typename T, typename S, typename Put>
__device__ void each_row(const NarrowProductParams& p, const Tile& tile,
                         const float4 (&quads)[S::kQuads], Put put) {
#pragma unroll
  for (int q = 0; q < S::kQuads; ++q) {
    const layouts::Place place = quad<S>(threadIdx.x, q);
    const int row = tile.rows * S::kRows + place.row, token = tile.tokens * S::kN + place.column;
    const float4 sum = quads[q];
    if (row < p.out_rows) put(row, token, sum.x + bias_of(p, row), sum.y + bias_of(p, row));
    if (row + 8 >= p.out_rows) continue;
    put(row + 8, token, sum.z + bias_of(p, row + 8), sum.w + bias_of(p, row + 8));
  }
}
template <typename T, typename S>
__device__ void out(const NarrowProductParams& p, const Tile& tile,
                    const float4 (&quads)[S::kQuads]) {
  if (p.store == STREAM_ADD_F32) {
    each_row<T, S>(p, tile, quads, [&](int row, int token, float even, float odd) {
      put_more(p, row, token, even, odd);
    });
  } else if (p.store == STREAM_STORE_F32) {
    each_row<T, S>(p, tile, quads, [&](int row, int token, float even, float odd) {
      put<float>(p, row, token, even, odd);
    });
  } else if (p.store == STREAM_STORE) {
    each_row<T, S>(p, tile, quads, [&](int row, int token, float even, float odd) {
      put<T>(p, row, token, binfer::from_float<T>(even), binfer::from_float<T>(odd));
    });
  } else {
#pragma unroll
    for (int q = 0; q < S::kQuads; ++q) {
      const layouts::Place place = quad<S>(threadIdx.x, q);
      const int row = tile.rows * (S::kRows / 2) + layouts::gated(place.row).row;
      if (row >= p.out_rows) continue;
      const float gate = bias_of(p, row), up = bias_of(p, p.out_rows + row);
      const float even = binfer::silu(quads[q].x + gate) * (quads[q].z + up);
      const float odd = binfer::silu(quads[q].y + gate) * (quads[q].w + up);
      put<T>(p, row, tile.tokens * S::kN + place.column, binfer::from_float<T>(even),
             binfer::from_float<T>(odd));
    }
  }
}

}  // namespace narrow

// stream_k_epilogue.cuh: stream_k_gemm.cu's sums added up over warps and over blocks, then to
// memory.
#pragma once

#include "common.cuh"
#include "stream_k_loader.cuh"

namespace stream_k {

__device__ inline float4 add(float4 a, float4 b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}

// A tile's sums from all warps that have a part of its k to the first of them, in order.
template <typename S>
__device__ void reduce_warps(float4 (&fragments)[S::kFragments], float4* shared) {
  if constexpr (S::kWarpsOfK > 1) {
    const int part = threadIdx.x / S::kSummers, summer = threadIdx.x % S::kSummers;
    if (part > 0) {
#pragma unroll
      for (int q = 0; q < S::kFragments; ++q) {
        shared[((part - 1) * S::kFragments + q) * S::kSummers + summer] = fragments[q];
      }
    }
    __syncthreads();
    if (part > 0) return;
#pragma unroll
    for (int other = 0; other < S::kWarpsOfK - 1; ++other) {
#pragma unroll
      for (int q = 0; q < S::kFragments; ++q) {
        fragments[q] =
            add(fragments[q], shared[(other * S::kFragments + q) * S::kSummers + summer]);
      }
    }
  }
}

// Fix-up: adds up the partial sums of a tile that several blocks share, in the order of k; the last
// block to arrive does it. True where the sums are whole now.
template <typename S>
__device__ bool fixup(const StreamKGemmParams& p, const work_split::Partials& partials,
                              float4 (&fragments)[S::kFragments]) {
  const int thread = threadIdx.x;
  const auto place = [&](int block) {
    return reinterpret_cast<float4*>(p.partials) +
           size_t(partials.slot(block)) * (S::kFragments * S::kSummers) + thread;
  };
  if (thread < S::kSummers) {
#pragma unroll
    for (int q = 0; q < S::kFragments; ++q)
      __stcg(place(blockIdx.x) + q * S::kSummers, fragments[q]);
  }
  __syncthreads();
  bool is_last = false;
  if (thread == 0) {
    uint32_t* arrivals = &p.arrivals[partials.first];  // no other tile's partial sums begin there
    is_last = ptx::add_acquire_release(arrivals, 1) == uint32_t(partials.count() - 1);
    if (is_last) *arrivals = 0;
  }
  if (!__syncthreads_or(is_last)) return false;
  if (thread >= S::kSummers) return true;
#pragma unroll
  for (int q = 0; q < S::kFragments; ++q) fragments[q] = {0, 0, 0, 0};
#pragma unroll(S::kFragments < 4 ? 4 : 1)
  for (int block = partials.first; block <= partials.last; ++block) {
    const float4* from = place(block);
#pragma unroll
    for (int q = 0; q < S::kFragments; ++q)
      fragments[q] = add(fragments[q], __ldcg(from + q * S::kSummers));
  }
  return true;
}

// Two tokens of a row.
template <typename To>
__device__ void store(const StreamKGemmParams& p, int row, int token, To even, To odd) {
  To* to = static_cast<To*>(p.out) + size_t(token) * p.out_stride + row;
  if (token < p.tokens) to[0] = even;
  if (token + 1 < p.tokens) to[p.out_stride] = odd;
}
// Nobody else adds there; so no thread waits for what was there.
__device__ inline void add(const StreamKGemmParams& p, int row, int token, float even,
                                float odd) {
  float* to = static_cast<float*>(p.out) + size_t(token) * p.out_stride + row;
  if (token < p.tokens) atomicAdd(to, even);
  if (token + 1 < p.tokens) atomicAdd(to + p.out_stride, odd);
}
__device__ inline float bias_of(const StreamKGemmParams& p, int row) {
  return p.bias != nullptr ? p.bias[row] : 0.0f;
}

// A tile's sums to memory: quad q has rows r and r + 8 by tokens t and t + 1.
template <typename T, typename S, typename Store>
__device__ void for_each_row(const StreamKGemmParams& p, const Tile& tile,
                         const float4 (&fragments)[S::kFragments], Store store) {
#pragma unroll
  for (int q = 0; q < S::kFragments; ++q) {
    const fragments::MatrixCoord place = fragment_coord<S>(threadIdx.x, q);
    const int row = tile.rows * S::kTileN + place.row,
              token = tile.tokens * S::kTileM + place.column;
    const float4 sum = fragments[q];
    if (row < p.out_features) store(row, token, sum.x + bias_of(p, row), sum.y + bias_of(p, row));
    if (row + 8 >= p.out_features) continue;
    store(row + 8, token, sum.z + bias_of(p, row + 8), sum.w + bias_of(p, row + 8));
  }
}
template <typename T, typename S>
__device__ void epilogue(const StreamKGemmParams& p, const Tile& tile,
                    const float4 (&fragments)[S::kFragments]) {
  if (p.epilogue == EPILOGUE_ADD_F32) {
    for_each_row<T, S>(p, tile, fragments, [&](int row, int token, float even, float odd) {
      add(p, row, token, even, odd);
    });
  } else if (p.epilogue == EPILOGUE_STORE_F32) {
    for_each_row<T, S>(p, tile, fragments, [&](int row, int token, float even, float odd) {
      store<float>(p, row, token, even, odd);
    });
  } else if (p.epilogue == EPILOGUE_STORE) {
    for_each_row<T, S>(p, tile, fragments, [&](int row, int token, float even, float odd) {
      store<T>(p, row, token, binfer::from_float<T>(even), binfer::from_float<T>(odd));
    });
  } else {
#pragma unroll
    for (int q = 0; q < S::kFragments; ++q) {
      const fragments::MatrixCoord place = fragment_coord<S>(threadIdx.x, q);
      const int row = tile.rows * (S::kTileN / 2) + fragments::glu_row(place.row).row;
      if (row >= p.out_features) continue;
      const float gate = bias_of(p, row), up = bias_of(p, p.out_features + row);
      const float even = binfer::silu(fragments[q].x + gate) * (fragments[q].z + up);
      const float odd = binfer::silu(fragments[q].y + gate) * (fragments[q].w + up);
      store<T>(p, row, tile.tokens * S::kTileM + place.column, binfer::from_float<T>(even),
             binfer::from_float<T>(odd));
    }
  }
}

}  // namespace stream_k

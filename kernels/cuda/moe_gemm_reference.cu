// moe_gemm_reference.cu: grouped gemms for any shape, alignment and format: the path of shapes that
// no other kernel takes, and the reference on the device. A token's result has the same bits
// whatever its company. A suffix names the packed format of the weights.
//   moe_gemm_reference:     out = x weight^T + bias, to T
//   moe_gemm_reference_glu: out = act(gate, up), see MoeGemmParams, to T
// Grid: (out_features / 64, rounded up, tiles_max); tiles of at most 64 positions.
#include "moe_params.h"
#include "reference_tile.cuh"

namespace binfer {

// The token of each position, or what lies at the position itself.
template <typename T>
struct PositionRows {
  const T* x;
  const uint32_t* slots_at;
  uint32_t top_k, in_features;
  __device__ float operator()(uint32_t position, uint32_t k) const {
    const uint32_t row = slots_at != nullptr ? slots_at[position] / top_k : position;
    return to_float(x[static_cast<size_t>(row) * in_features + k]);
  }
};

__device__ inline float gated(const MoeGemmParams& p, float gate, float up) {
  gate = gate > p.limit ? p.limit : gate;  // what is no number stays none
  up = up > p.limit ? p.limit : up < -p.limit ? -p.limit : up;
  return gate / (1.0f + __expf(-p.alpha * gate)) * (up + p.up_offset);
}

template <typename T, bool kIsGlu>
__device__ void store(const MoeGemmParams& p, const MoeTile& tile, const Sums& sums,
                      const Sums& ups) {
  const uint32_t of_tile = threadIdx.x / 16 * kEach;
  const uint32_t output = blockIdx.x * kTile + threadIdx.x % 16 * kEach;
  const size_t expert_rows = static_cast<size_t>(kIsGlu ? 2 : 1) * p.out_features;
  const size_t row = tile.expert * expert_rows + output;
#pragma unroll
  for (int t = 0; t < kEach; ++t) {
#pragma unroll
    for (int o = 0; o < kEach; ++o) {
      if (of_tile + t >= tile.count || output + o >= p.out_features) continue;
      float sum = biased(sums[t][o], p.bias, row + o);
      if constexpr (kIsGlu) sum = gated(p, sum, biased(ups[t][o], p.bias, row + p.out_features + o));
      const size_t position = tile.first + of_tile + t;
      static_cast<T*>(p.out)[position * p.out_features + output + o] = from_float<T>(sum);
    }
  }
}

template <typename T, typename Rows, bool kIsGlu>
__device__ void moe_gemm(const MoeGemmParams& p) {
  __shared__ Tile x, weight, up;
  wait_for_previous();
  let_next_start();
  const MoeTile tile = p.tiles[blockIdx.y];
  if (tile.count == 0) return;
  const Rows rows(p.weight, p.stride);
  const PositionRows<T> tokens = {static_cast<const T*>(p.x), p.slots_at, p.top_k, p.in_features};
  const uint32_t first_row = tile.expert * (kIsGlu ? 2 : 1) * p.out_features;
  const uint32_t output = first_row + blockIdx.x * kTile, end = first_row + p.out_features;
  Sums sums = {}, ups = {};
  for (uint32_t k = 0; k < p.in_features; k += kTileK) {
    load_tile(x, tokens, tile.first, tile.first + tile.count, k, p.in_features);
    load_tile(weight, rows, output, end, k, p.in_features);
    if constexpr (kIsGlu) {
      load_tile(up, rows, output + p.out_features, end + p.out_features, k, p.in_features);
    }
    __syncthreads();
    mma_tile(sums, x, weight);
    if constexpr (kIsGlu) mma_tile(ups, x, up);
    __syncthreads();
  }
  store<T, kIsGlu>(p, tile, sums, ups);
}

#define MOE_GEMM_REFERENCE(NAME, IS_GLU)                                        \
  template <typename T>                                                         \
  __device__ void NAME(const MoeGemmParams& p) {                                \
    moe_gemm<T, DenseRows<T>, IS_GLU>(p);                                       \
  }                                                                             \
  template <typename T>                                                         \
  __device__ void NAME##_mxfp4(const MoeGemmParams& p) {                        \
    moe_gemm<T, PackedRows<packed::Mxfp4>, IS_GLU>(p);                          \
  }                                                                             \
  template <typename T>                                                         \
  __device__ void NAME##_fp8(const MoeGemmParams& p) {                          \
    moe_gemm<T, PackedRows<packed::Fp8>, IS_GLU>(p);                            \
  }
MOE_GEMM_REFERENCE(moe_gemm_reference, false)
MOE_GEMM_REFERENCE(moe_gemm_reference_glu, true)

}  // namespace binfer

BINFER_KERNEL(moe_gemm_reference, MoeGemmParams, binfer::kGemmThreads)
BINFER_KERNEL(moe_gemm_reference_mxfp4, MoeGemmParams, binfer::kGemmThreads)
BINFER_KERNEL(moe_gemm_reference_fp8, MoeGemmParams, binfer::kGemmThreads)
BINFER_KERNEL(moe_gemm_reference_glu, MoeGemmParams, binfer::kGemmThreads)
BINFER_KERNEL(moe_gemm_reference_glu_mxfp4, MoeGemmParams, binfer::kGemmThreads)
BINFER_KERNEL(moe_gemm_reference_glu_fp8, MoeGemmParams, binfer::kGemmThreads)

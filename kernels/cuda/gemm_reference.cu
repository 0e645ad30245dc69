// gemm_reference.cu: gemms for any number of tokens and features, at any alignment: the path of
// shapes that no other kernel takes, and the reference on the device. Tiles of 64 tokens x 64
// features, f32 accumulation in one order of k whatever the company, so that a token's result has
// the same bits with any number of tokens.
//   gemm_reference:     out = x weight^T + bias, to T
//   gemm_reference_glu: out = silu(gate) * up, each biased, to T
//   gemm_reference_add: out += x weight^T + bias, in f32
//   gemm_reference_f32: out = x weight^T, in f32
//   bias, glu, bias_residual: what is left to do behind a library's gemm
// Grid: (out_features / 64, tokens / 64), rounded up; the last three: (tokens, out_features / 256).
#include "common.cuh"
#include "gemm_params.h"

namespace binfer {

constexpr int kGemmThreads = 256;
constexpr int kTile = 64;
constexpr int kTileK = 16;
constexpr int kEach = 4;  // a thread has 4 x 4 of the tile

// One operand's tile, k first, so that a thread's four rows lie together.
struct Tile {
  float at[kTileK][kTile + 4];
};

template <typename T>
__device__ void load_tile(Tile& tile, const T* rows, uint32_t first, uint32_t count,
                          uint32_t stride, uint32_t from, uint32_t in_features) {
  for (int i = threadIdx.x; i < kTile * kTileK; i += kGemmThreads) {
    const uint32_t row = first + i / kTileK, input = from + i % kTileK;
    const bool real = row < count && input < in_features;
    const size_t place = static_cast<size_t>(row) * stride + input;
    tile.at[i % kTileK][i / kTileK] = real ? to_float(rows[place]) : 0.0f;
  }
}

__device__ inline void mma_tile(float (&sums)[kEach][kEach], const Tile& x, const Tile& weight) {
  const int token = threadIdx.x / 16 * kEach, output = threadIdx.x % 16 * kEach;
#pragma unroll
  for (int input = 0; input < kTileK; ++input) {
#pragma unroll
    for (int t = 0; t < kEach; ++t) {
#pragma unroll
      for (int o = 0; o < kEach; ++o) {
        sums[t][o] += x.at[input][token + t] * weight.at[input][output + o];
      }
    }
  }
}

__device__ inline float biased(float sum, const float* bias, uint32_t row) {
  return bias != nullptr ? sum + bias[row] : sum;
}

template <typename T, Epilogue kEpilogue>
__device__ void store(const ReferenceGemmParams& p, const float (&sums)[kEach][kEach],
                      const float (&ups)[kEach][kEach]) {
  const uint32_t token = blockIdx.y * kTile + threadIdx.x / 16 * kEach;
  const uint32_t output = blockIdx.x * kTile + threadIdx.x % 16 * kEach;
#pragma unroll
  for (int t = 0; t < kEach; ++t) {
#pragma unroll
    for (int o = 0; o < kEach; ++o) {
      if (token + t >= p.tokens || output + o >= p.out_features) continue;
      const size_t place = static_cast<size_t>(token + t) * p.out_stride + output + o;
      const float sum = biased(sums[t][o], p.bias, output + o);
      if constexpr (kEpilogue == EPILOGUE_STORE) {
        static_cast<T*>(p.out)[place] = from_float<T>(sum);
      } else if constexpr (kEpilogue == EPILOGUE_GLU) {
        const float up = biased(ups[t][o], p.bias, p.out_features + output + o);
        static_cast<T*>(p.out)[place] = from_float<T>(silu(sum) * up);
      } else if constexpr (kEpilogue == EPILOGUE_ADD_F32) {
        static_cast<float*>(p.out)[place] += sum;
      } else {
        static_cast<float*>(p.out)[place] = sum;
      }
    }
  }
}

template <typename T, Epilogue kEpilogue>
__device__ void gemm(const ReferenceGemmParams& p) {
  __shared__ Tile x, weight, up;
  wait_for_previous();
  let_next_start();
  const T* rows = static_cast<const T*>(p.weight);
  const uint32_t token = blockIdx.y * kTile, output = blockIdx.x * kTile;
  float sums[kEach][kEach] = {}, ups[kEach][kEach] = {};
  for (uint32_t from = 0; from < p.in_features; from += kTileK) {
    load_tile(x, static_cast<const T*>(p.x), token, p.tokens, p.in_features, from, p.in_features);
    load_tile(weight, rows, output, p.out_features, p.stride, from, p.in_features);
    if constexpr (kEpilogue == EPILOGUE_GLU) {
      const T* upper = rows + static_cast<size_t>(p.out_features) * p.stride;
      load_tile(up, upper, output, p.out_features, p.stride, from, p.in_features);
    }
    __syncthreads();
    mma_tile(sums, x, weight);
    if constexpr (kEpilogue == EPILOGUE_GLU) mma_tile(ups, x, up);
    __syncthreads();
  }
  store<T, kEpilogue>(p, sums, ups);
}

template <typename T>
__device__ void gemm_reference(const ReferenceGemmParams& p) { gemm<T, EPILOGUE_STORE>(p); }
template <typename T>
__device__ void gemm_reference_glu(const ReferenceGemmParams& p) { gemm<T, EPILOGUE_GLU>(p); }
template <typename T>
__device__ void gemm_reference_add(const ReferenceGemmParams& p) { gemm<T, EPILOGUE_ADD_F32>(p); }
template <typename T>
__device__ void gemm_reference_f32(const ReferenceGemmParams& p) { gemm<T, EPILOGUE_STORE_F32>(p); }

template <typename T, Epilogue kEpilogue>
__device__ void epilogue(const EpilogueParams& p) {
  wait_for_previous();
  let_next_start();
  const uint32_t output = blockIdx.y * kGemmThreads + threadIdx.x;
  if (output >= p.out_features) return;
  const size_t token = blockIdx.x, place = token * p.out_features + output;
  const T* sums = static_cast<const T*>(p.sums);
  if constexpr (kEpilogue == EPILOGUE_GLU) {
    const T* gate = sums + token * 2 * p.out_features + output;
    const float gated = silu(biased(to_float(gate[0]), p.bias, output));
    const float up = biased(to_float(gate[p.out_features]), p.bias, p.out_features + output);
    static_cast<T*>(p.out)[place] = from_float<T>(gated * up);
  } else if constexpr (kEpilogue == EPILOGUE_STORE) {
    static_cast<T*>(p.out)[place] = from_float<T>(biased(to_float(sums[place]), p.bias, output));
  } else {
    static_cast<float*>(p.out)[place] += p.bias[output];
  }
}

template <typename T>
__device__ void bias(const EpilogueParams& p) { epilogue<T, EPILOGUE_STORE>(p); }
template <typename T>
__device__ void glu(const EpilogueParams& p) { epilogue<T, EPILOGUE_GLU>(p); }

}  // namespace binfer

BINFER_KERNEL(gemm_reference, ReferenceGemmParams, binfer::kGemmThreads)
BINFER_KERNEL(gemm_reference_glu, ReferenceGemmParams, binfer::kGemmThreads)
BINFER_KERNEL(gemm_reference_add, ReferenceGemmParams, binfer::kGemmThreads)
BINFER_KERNEL(gemm_reference_f32, ReferenceGemmParams, binfer::kGemmThreads)
BINFER_KERNEL(bias, EpilogueParams, binfer::kGemmThreads)
BINFER_KERNEL(glu, EpilogueParams, binfer::kGemmThreads)

extern "C" __global__ void __launch_bounds__(binfer::kGemmThreads)
    bias_residual(const __grid_constant__ EpilogueParams p) {
  binfer::epilogue<float, EPILOGUE_ADD_F32>(p);
}

// gemm_reference.cu: gemms for any number of tokens and features, at any alignment: the path of
// shapes that no other kernel takes, and the reference on the device, for dense and packed weights
// (a suffix names the packed format). A token's result has the same bits with any number of tokens.
//   gemm_reference:     out = x weight^T + bias, to T
//   gemm_reference_glu: out = silu(gate) * up, each biased, to T
//   gemm_reference_add: out += x weight^T + bias, in f32
//   gemm_reference_f32: out = x weight^T, in f32
//   bias, glu, bias_residual: what is left to do behind a library's gemm
// Grid: (out_features / 64, tokens / 64), rounded up; the last three: (tokens, out_features / 256).
#include "gemm_params.h"
#include "reference_tile.cuh"

namespace binfer {

template <typename T, Epilogue kEpilogue>
__device__ void store(const ReferenceGemmParams& p, const Sums& sums, const Sums& ups) {
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

template <typename T, typename Rows, Epilogue kEpilogue>
__device__ void gemm(const ReferenceGemmParams& p) {
  __shared__ Tile x, weight, up;
  wait_for_previous();
  let_next_start();
  const Rows rows(p.weight, p.stride);
  const DenseRows<T> tokens(p.x, p.in_features);
  const uint32_t token = blockIdx.y * kTile, output = blockIdx.x * kTile, outputs = p.out_features;
  Sums sums = {}, ups = {};
  for (uint32_t k = 0; k < p.in_features; k += kTileK) {
    load_tile(x, tokens, token, p.tokens, k, p.in_features);
    load_tile(weight, rows, output, outputs, k, p.in_features);
    if constexpr (kEpilogue == EPILOGUE_GLU) {
      load_tile(up, rows, outputs + output, 2 * outputs, k, p.in_features);
    }
    __syncthreads();
    mma_tile(sums, x, weight);
    if constexpr (kEpilogue == EPILOGUE_GLU) mma_tile(ups, x, up);
    __syncthreads();
  }
  store<T, kEpilogue>(p, sums, ups);
}

#define GEMM_REFERENCE(NAME, EPILOGUE)                                             \
  template <typename T>                                                            \
  __device__ void NAME(const ReferenceGemmParams& p) {                             \
    gemm<T, DenseRows<T>, EPILOGUE>(p);                                            \
  }                                                                                \
  template <typename T>                                                            \
  __device__ void NAME##_mxfp4(const ReferenceGemmParams& p) {                     \
    gemm<T, PackedRows<packed::Mxfp4>, EPILOGUE>(p);                               \
  }                                                                                \
  template <typename T>                                                            \
  __device__ void NAME##_fp8(const ReferenceGemmParams& p) {                       \
    gemm<T, PackedRows<packed::Fp8>, EPILOGUE>(p);                                 \
  }
GEMM_REFERENCE(gemm_reference, EPILOGUE_STORE)
GEMM_REFERENCE(gemm_reference_glu, EPILOGUE_GLU)
GEMM_REFERENCE(gemm_reference_add, EPILOGUE_ADD_F32)
GEMM_REFERENCE(gemm_reference_f32, EPILOGUE_STORE_F32)

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

#define GEMM_REFERENCE_KERNELS(NAME)                                               \
  BINFER_KERNEL(NAME, ReferenceGemmParams, binfer::kGemmThreads)                   \
  BINFER_KERNEL(NAME##_mxfp4, ReferenceGemmParams, binfer::kGemmThreads)           \
  BINFER_KERNEL(NAME##_fp8, ReferenceGemmParams, binfer::kGemmThreads)
GEMM_REFERENCE_KERNELS(gemm_reference)
GEMM_REFERENCE_KERNELS(gemm_reference_glu)
GEMM_REFERENCE_KERNELS(gemm_reference_add)
GEMM_REFERENCE_KERNELS(gemm_reference_f32)
BINFER_KERNEL(bias, EpilogueParams, binfer::kGemmThreads)
BINFER_KERNEL(glu, EpilogueParams, binfer::kGemmThreads)

extern "C" __global__ void __launch_bounds__(binfer::kGemmThreads)
    bias_residual(const __grid_constant__ EpilogueParams p) {
  binfer::epilogue<float, EPILOGUE_ADD_F32>(p);
}

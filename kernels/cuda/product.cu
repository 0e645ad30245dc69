// Products for any number of tokens, outputs and inputs, at any alignment: the plain path, and the
// reference on the device. Tiles of 64 tokens x 64 outputs, float accumulation, inputs added in one
// order whatever the company, so that a token's result has the same bits at any number of tokens.
//   product:          out = x weight^T + bias, to T
//   product_glu:      out = silu(gate) * up, each biased, to T
//   product_residual: out += x weight^T + bias, in float
//   product_logits:   out = x weight^T, in float
//   bias, glu, bias_residual: what is left to do after a library's product
// Grid: (outputs / 64, tokens / 64), rounded up; the last three: (tokens, outputs / 256).
#include "common.cuh"

namespace binfer {

constexpr int kProductThreads = 256;
constexpr int kTile = 64;
constexpr int kDepth = 16;
constexpr int kEach = 4;  // a thread has 4 x 4 of the tile

// One operand's tile, inputs first, so that a thread's four rows lie together.
struct Tile {
  float at[kDepth][kTile + 4];
};

template <typename T>
__device__ void load_tile(Tile& tile, const T* rows, uint32_t first, uint32_t count, uint32_t stride,
                          uint32_t from, uint32_t inputs) {
  for (int i = threadIdx.x; i < kTile * kDepth; i += kProductThreads) {
    const uint32_t row = first + i / kDepth, input = from + i % kDepth;
    const bool real = row < count && input < inputs;
    const size_t place = static_cast<size_t>(row) * stride + input;
    tile.at[i % kDepth][i / kDepth] = real ? to_float(rows[place]) : 0.0f;
  }
}

__device__ inline void multiply(float (&sums)[kEach][kEach], const Tile& x, const Tile& weight) {
  const int token = threadIdx.x / 16 * kEach, output = threadIdx.x % 16 * kEach;
#pragma unroll
  for (int input = 0; input < kDepth; ++input) {
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

// What becomes of a thread's sums.
enum class Then { kStore, kGlu, kResidual, kLogits };

template <typename T, Then then>
__device__ void store(const ProductParams& p, const float (&sums)[kEach][kEach],
                      const float (&ups)[kEach][kEach]) {
  const uint32_t token = blockIdx.y * kTile + threadIdx.x / 16 * kEach;
  const uint32_t output = blockIdx.x * kTile + threadIdx.x % 16 * kEach;
#pragma unroll
  for (int t = 0; t < kEach; ++t) {
#pragma unroll
    for (int o = 0; o < kEach; ++o) {
      if (token + t >= p.tokens || output + o >= p.outputs) continue;
      const size_t place = static_cast<size_t>(token + t) * p.out_stride + output + o;
      const float sum = biased(sums[t][o], p.bias, output + o);
      if constexpr (then == Then::kStore) {
        static_cast<T*>(p.out)[place] = from_float<T>(sum);
      } else if constexpr (then == Then::kGlu) {
        const float up = biased(ups[t][o], p.bias, p.outputs + output + o);
        static_cast<T*>(p.out)[place] = from_float<T>(silu(sum) * up);
      } else if constexpr (then == Then::kResidual) {
        static_cast<float*>(p.out)[place] += sum;
      } else {
        static_cast<float*>(p.out)[place] = sum;
      }
    }
  }
}

template <typename T, Then then>
__device__ void product_then(const ProductParams& p) {
  __shared__ Tile x, weight, up;
  wait_for_previous();
  let_next_start();
  const T* rows = static_cast<const T*>(p.weight);
  const uint32_t token = blockIdx.y * kTile, output = blockIdx.x * kTile;
  float sums[kEach][kEach] = {}, ups[kEach][kEach] = {};
  for (uint32_t from = 0; from < p.inputs; from += kDepth) {
    load_tile(x, static_cast<const T*>(p.x), token, p.tokens, p.inputs, from, p.inputs);
    load_tile(weight, rows, output, p.outputs, p.stride, from, p.inputs);
    if constexpr (then == Then::kGlu) {
      const T* upper = rows + static_cast<size_t>(p.outputs) * p.stride;
      load_tile(up, upper, output, p.outputs, p.stride, from, p.inputs);
    }
    __syncthreads();
    multiply(sums, x, weight);
    if constexpr (then == Then::kGlu) multiply(ups, x, up);
    __syncthreads();
  }
  store<T, then>(p, sums, ups);
}

template <typename T>
__device__ void product(const ProductParams& p) { product_then<T, Then::kStore>(p); }
template <typename T>
__device__ void product_glu(const ProductParams& p) { product_then<T, Then::kGlu>(p); }
template <typename T>
__device__ void product_residual(const ProductParams& p) { product_then<T, Then::kResidual>(p); }
template <typename T>
__device__ void product_logits(const ProductParams& p) { product_then<T, Then::kLogits>(p); }

template <typename T, Then then>
__device__ void epilogue(const EpilogueParams& p) {
  wait_for_previous();
  let_next_start();
  const uint32_t output = blockIdx.y * kProductThreads + threadIdx.x;
  if (output >= p.outputs) return;
  const size_t token = blockIdx.x, place = token * p.outputs + output;
  const T* sums = static_cast<const T*>(p.sums);
  if constexpr (then == Then::kGlu) {
    const T* gate = sums + token * 2 * p.outputs + output;
    const float gated = silu(biased(to_float(gate[0]), p.bias, output));
    const float up = biased(to_float(gate[p.outputs]), p.bias, p.outputs + output);
    static_cast<T*>(p.out)[place] = from_float<T>(gated * up);
  } else if constexpr (then == Then::kStore) {
    static_cast<T*>(p.out)[place] = from_float<T>(biased(to_float(sums[place]), p.bias, output));
  } else {
    static_cast<float*>(p.out)[place] += p.bias[output];
  }
}

template <typename T>
__device__ void bias(const EpilogueParams& p) { epilogue<T, Then::kStore>(p); }
template <typename T>
__device__ void glu(const EpilogueParams& p) { epilogue<T, Then::kGlu>(p); }

}  // namespace binfer

BINFER_KERNEL(product, ProductParams, binfer::kProductThreads)
BINFER_KERNEL(product_glu, ProductParams, binfer::kProductThreads)
BINFER_KERNEL(product_residual, ProductParams, binfer::kProductThreads)
BINFER_KERNEL(product_logits, ProductParams, binfer::kProductThreads)
BINFER_KERNEL(bias, EpilogueParams, binfer::kProductThreads)
BINFER_KERNEL(glu, EpilogueParams, binfer::kProductThreads)

extern "C" __global__ void __launch_bounds__(binfer::kProductThreads)
    bias_residual(const __grid_constant__ EpilogueParams p) {
  binfer::epilogue<float, binfer::Then::kResidual>(p);
}

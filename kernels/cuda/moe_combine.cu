// moe_combine.cu: tokens go to experts, and what experts made of them comes back.
//   moe_gather:      rows of tokens in the order of positions, a block a slot (kGatherThreads)
//   moe_combine:     out = residual + sum of a token's slots, in their order, in f32
//   moe_shared_gate: weighs the columns between the gemms of the shared expert
// Grid: a block a token, kCombineThreads threads.
#include "common.cuh"
#include "moe_params.h"

namespace binfer {

constexpr int kCombineThreads = 256;

template <typename T>
__device__ void moe_combine(const MoeCombineParams& p) {
  __shared__ uint32_t positions[kTopKMax];
  __shared__ float weights[kTopKMax];
  wait_for_previous();
  let_next_start();
  const size_t token = blockIdx.x;
  if (threadIdx.x < p.top_k) {
    positions[threadIdx.x] = p.positions[token * p.top_k + threadIdx.x];
    weights[threadIdx.x] = p.weights[token * p.top_k + threadIdx.x];
  }
  __syncthreads();
  const T* rows = static_cast<const T*>(p.expert_out);
  for (uint32_t i = threadIdx.x; i < p.hidden; i += kCombineThreads) {
    float sum = 0.0f;
#pragma unroll 4
    for (uint32_t slot = 0; slot < p.top_k; ++slot) {
      if (positions[slot] == kNone) continue;
      const size_t at = static_cast<size_t>(positions[slot]) * p.hidden + i;
      sum += weights[slot] * to_float(rows[at]);
    }
    const size_t at = token * p.hidden + i;
    p.out[at] = p.residual != nullptr ? p.residual[at] + sum : sum;
  }
}

constexpr int kGatherThreads = 128;

template <typename T>
__device__ void moe_gather(const MoeGatherParams& p) {
  wait_for_previous();
  let_next_start();
  const uint32_t position = p.positions[blockIdx.x];
  if (position == kNone) return;
  const size_t from = static_cast<size_t>(blockIdx.x / p.top_k) * p.hidden;
  const uint4* x = reinterpret_cast<const uint4*>(static_cast<const T*>(p.x) + from);
  uint4* out = reinterpret_cast<uint4*>(static_cast<T*>(p.out) +
                                        static_cast<size_t>(position) * p.hidden);
  for (uint32_t i = threadIdx.x; i < p.hidden / 8; i += kGatherThreads) out[i] = x[i];
}

template <typename T>
__device__ void moe_shared_gate(const SharedGateParams& p) {
  wait_for_previous();
  let_next_start();
  const T* x = static_cast<const T*>(p.x) + static_cast<size_t>(blockIdx.x) * p.hidden;
  T* inner = static_cast<T*>(p.inner) + static_cast<size_t>(blockIdx.x) * p.inner_cols;
  float sum = 0.0f;
  for (uint32_t i = threadIdx.x; i < p.hidden; i += kCombineThreads) {
    sum += to_float(x[i]) * p.gate[i];
  }
  const float weight = 1.0f / (1.0f + __expf(-block_sum<kCombineThreads>(sum)));
  for (uint32_t i = threadIdx.x; i < p.inner_cols; i += kCombineThreads) {
    inner[i] = from_float<T>(to_float(inner[i]) * weight);
  }
}

}  // namespace binfer

BINFER_KERNEL(moe_gather, MoeGatherParams, binfer::kGatherThreads)
BINFER_KERNEL(moe_combine, MoeCombineParams, binfer::kCombineThreads)
BINFER_KERNEL(moe_shared_gate, SharedGateParams, binfer::kCombineThreads)

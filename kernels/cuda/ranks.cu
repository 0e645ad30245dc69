// What becomes of what ranks gathered from each other.
//   merge_logits: rows of the vocabulary, which ranks share unevenly, side by side.
//                 Grid: (vocab / kMergeLogits, rounded up, outputs). Each logit is read once.
#include "common.cuh"
#include "rank_params.h"

namespace binfer {

constexpr int kMergeThreads = 256, kMergeEach = 4;
constexpr int kMergeLogits = kMergeThreads * kMergeEach;

__device__ void merge_logits(const MergeLogitsParams& p) {
  wait_for_previous();
  let_next_start();
  const size_t output = blockIdx.y;
  float* to = p.logits + output * p.vocab;
  uint32_t rank = 0;
#pragma unroll
  for (int i = 0; i < kMergeEach; ++i) {
    const uint32_t token = blockIdx.x * kMergeLogits + i * kMergeThreads + threadIdx.x;
    if (token >= p.vocab) return;
    while (token >= p.first_tokens[rank + 1]) ++rank;
    const size_t row = rank * static_cast<size_t>(p.outputs) + output;
    to[token] = p.gathered[row * p.stride + token - p.first_tokens[rank]];
  }
}

}  // namespace binfer

extern "C" __global__ void __launch_bounds__(binfer::kMergeThreads)
    merge_logits(const __grid_constant__ MergeLogitsParams p) {
  binfer::merge_logits(p);
}

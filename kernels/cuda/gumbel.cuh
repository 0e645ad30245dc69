// gumbel.cuh: the Gumbel noise of worker/src/backend/cpu/sample/, and a block's best logit with
// it.
#pragma once

#include "common.cuh"
#include "sample_params.h"

namespace binfer {

constexpr uint32_t kNone = 0xffffffffu;

__device__ inline uint64_t split_mix(uint64_t counter) {
  uint64_t z = counter + 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

__device__ inline uint64_t noise_stream(const StepOutput& output) {
  const uint64_t place = static_cast<uint64_t>(output.choice) << 32 | output.position;
  return split_mix(split_mix(output.seed) ^ place);
}

// -ln(-ln(u)) of 32 random bits of the token.
__device__ inline uint32_t noise_bits(uint64_t stream, uint32_t token) {
  return static_cast<uint32_t>(split_mix(stream + token * 0x9e3779b97f4a7c15ull) >> 32);
}

__device__ inline double gumbel(uint32_t bits) {
  return -log(-log((static_cast<double>(bits) + 0.5) / 4294967296.0));
}

// Not less than gumbel(bits), and cheap: see the CPU's noise_bound.
__device__ inline double noise_bound(uint32_t bits) {
  return static_cast<double>(__clz(~bits) + 1) * 0.6931471805599453 + 1e-3;
}

// A float's place in the order of floats; -0 counts as 0.
__device__ inline uint32_t order_of(float logit) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float logit_of(uint32_t order) {
  return __uint_as_float(order & 0x80000000u ? order & 0x7fffffffu : ~order);
}

// The best so far: the higher score, then the lower id.
struct ArgMax {
  double score = -INFINITY;
  uint32_t token = kNone;

  __device__ void update(double other_score, uint32_t other) {
    if (other_score > score || (other_score == score && other < token)) {
      score = other_score;
      token = other;
    }
  }
  __device__ void update_noisy(uint64_t stream, double inverse_temperature, uint32_t candidate,
                               float logit) {
    const double base = static_cast<double>(logit) * inverse_temperature;
    const uint32_t bits = noise_bits(stream, candidate);
    if (score - base <= noise_bound(bits)) update(base + gumbel(bits), candidate);
  }
};

// ArgMax of a block, on thread 0.
template <int kThreads>
__device__ ArgMax block_arg_max(ArgMax best) {
  __shared__ double scores[kThreads / 32];
  __shared__ uint32_t tokens[kThreads / 32];
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const double score = __shfl_xor_sync(0xffffffffu, best.score, lanes);
    best.update(score, __shfl_xor_sync(0xffffffffu, best.token, lanes));
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    scores[threadIdx.x / 32] = best.score;
    tokens[threadIdx.x / 32] = best.token;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int warp = 1; warp < kThreads / 32; ++warp) best.update(scores[warp], tokens[warp]);
  }
  return best;
}

}  // namespace binfer

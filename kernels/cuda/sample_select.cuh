// What min-p, top-k and top-p leave of a row of logits, by radix selection; one block a row.
// Masses are whole numbers of 2^-44 of the largest, so that atomic sums do not depend on their
// order.
#pragma once

#include "gumbel.cuh"
#include "penalties.cuh"
#include "token_masks.cuh"

namespace binfer {

constexpr int kRowThreads = 512;

// Of the lowest logit that is a number.
constexpr uint32_t kLowestOrder = 0x00800000u;

// A row under selection. `threshold`: logits of this order and above are kept; masked ones are
// below all numbers.
struct Row {
  const float* logits;
  Adjust adjust;
  Mask mask;
  uint32_t vocab;
  float top;
  double inverse_temperature;
  uint32_t threshold;

  __device__ float logit(uint32_t token) const {
    return mask.allows(token) ? adjust(token, logits[token]) : -INFINITY;
  }
  __device__ uint64_t mass(float logit) const {
    const double share =
        exp((static_cast<double>(logit) - static_cast<double>(top)) * inverse_temperature);
    return static_cast<uint64_t>(share * 17592186044416.0);
  }
};

// Where a selection ended.
struct Border {
  uint32_t order;   // of the last logit that is kept
  uint64_t before;  // weight of all that are larger
};

// The largest order at which the weights of that and all larger orders reach `target`: eight bits
// a pass. Weights are masses, or one each.
template <bool kMasses>
__device__ Border select(const Row& row, uint64_t target) {
  __shared__ unsigned long long bins[256];
  __shared__ Border shared;
  uint32_t prefix = 0;
  uint64_t before = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int bin = threadIdx.x; bin < 256; bin += kRowThreads) bins[bin] = 0;
    __syncthreads();
    for (uint32_t token = threadIdx.x; token < row.vocab; token += kRowThreads) {
      const float logit = row.logit(token);
      const uint32_t order = order_of(logit);
      const bool same = shift == 24 || order >> (shift + 8) == prefix >> (shift + 8);
      if (!same || order < row.threshold) continue;
      const unsigned long long weight = kMasses ? row.mass(logit) : 1;
      atomicAdd(&bins[order >> shift & 255], weight);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int bin = 255;
      while (bin > 0 && before + bins[bin] < target) before += bins[bin--];
      shared = Border{prefix | static_cast<uint32_t>(bin) << shift, before};
    }
    __syncthreads();
    prefix = shared.order;
    before = shared.before;
  }
  return Border{prefix, before};
}

// Total mass of what is kept.
__device__ uint64_t total_mass(const Row& row) {
  __shared__ unsigned long long total;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  unsigned long long mine = 0;
  for (uint32_t token = threadIdx.x; token < row.vocab; token += kRowThreads) {
    const float logit = row.logit(token);
    if (order_of(logit) >= row.threshold) mine += row.mass(logit);
  }
  atomicAdd(&total, mine);
  __syncthreads();
  return total;
}

// The id of the `wanted`-th token of that order, counted from 1; the last id where there are fewer.
__device__ uint32_t nth_equal(const Row& row, uint32_t order, uint64_t wanted) {
  __shared__ uint32_t found;
  if (threadIdx.x == 0) found = kNone;
  uint64_t seen = 0;
  for (uint32_t first = 0; first < row.vocab && seen < wanted; first += kRowThreads) {
    const uint32_t token = first + threadIdx.x;
    const bool equal = token < row.vocab && order_of(row.logit(token)) == order;
    const uint32_t count = __syncthreads_count(equal);
    if (seen + count >= wanted && threadIdx.x == 0) {
      uint64_t here = seen;
      for (uint32_t t = first; t < min(first + kRowThreads, row.vocab); ++t) {
        here += order_of(row.logit(t)) == order;
        if (here == wanted) {
          found = t;
          break;
        }
      }
    }
    seen += count;
  }
  __syncthreads();
  return found;
}

// The noisy best among what min-p, top-k and top-p leave.
__device__ uint32_t sample_limited(const StepOutput& output, Row row) {
  uint32_t last_id = kNone;
  if (output.min_p_depth < INFINITY) {
    const double least = static_cast<double>(row.top) - static_cast<double>(output.min_p_depth);
    row.threshold = order_of(__double2float_ru(least));
  }
  if (output.top_k > 0 && output.top_k < row.vocab) {
    row.threshold = max(row.threshold, select<false>(row, output.top_k).order);
  }
  if (output.top_p < 1.0f) {
    const double target = static_cast<double>(output.top_p) * static_cast<double>(total_mass(row));
    const uint64_t needed = max(static_cast<uint64_t>(ceil(target)), static_cast<uint64_t>(1));
    const Border border = select<true>(row, needed);
    const uint64_t each = max(row.mass(logit_of(border.order)), static_cast<uint64_t>(1));
    const uint64_t equals = (needed - min(border.before, needed) + each - 1) / each;
    row.threshold = border.order;
    last_id = nth_equal(row, border.order, max(equals, static_cast<uint64_t>(1)));
  }
  const uint64_t stream = noise_stream(output);
  ArgMax best;
  for (uint32_t token = threadIdx.x; token < row.vocab; token += kRowThreads) {
    const float logit = row.logit(token);
    const uint32_t order = order_of(logit);
    if (order < row.threshold || (order == row.threshold && token > last_id)) continue;
    best.update_noisy(stream, row.inverse_temperature, token, logit);
  }
  return block_arg_max<kRowThreads>(best).token;
}

}  // namespace binfer

// sample_logprobs.cuh: logprobs of the raw distribution: of the sampled token, and of the most
// likely ones.
#pragma once

#include "sample_select.cuh"

namespace binfer {

// Whether `one` is more likely than `other`, or as likely and of the lower id.
__device__ inline bool comes_before(const Logprob& one, const Logprob& other) {
  return one.logprob > other.logprob || (one.logprob == other.logprob && one.token < other.token);
}

// Gathers the `count` most likely tokens of a row, with their logits, in no order.
__device__ void gather_likely(const Row& row, uint32_t count, Logprob* found) {
  __shared__ uint32_t places;
  const Border border = select<false>(row, count);
  const uint32_t last_id = nth_equal(row, border.order, count - border.before);
  if (threadIdx.x == 0) places = 0;
  __syncthreads();
  for (uint32_t token = threadIdx.x; token < row.vocab; token += kRowThreads) {
    const float logit = row.logit(token);
    const uint32_t order = order_of(logit);
    if (order < border.order || (order == border.order && token > last_id)) continue;
    found[atomicAdd(&places, 1)] = Logprob{token, logit};
  }
  __syncthreads();
}

// Logprobs of the sampled token, which thread 0 knows, and of the most likely ones.
__device__ void put_logprobs(const SampleParams& p, const StepOutput& output, Row row,
                             uint32_t sampled) {
  __shared__ Logprob found[kLogprobsMax];
  const size_t place = static_cast<size_t>(p.step.state->ring_slot) * p.outputs_max + blockIdx.x;
  Logprob* out = p.logprobs + place * kLogprobsMax;
  const double total = log(static_cast<double>(total_mass(row)) / 17592186044416.0);
  auto logprob = [&](float logit) {
    const double value = static_cast<double>(logit) - static_cast<double>(row.top) - total;
    return static_cast<float>(fmax(value, -3.4028234663852886e38));
  };
  if (threadIdx.x == 0) out[0] = Logprob{sampled, logprob(row.logits[sampled])};
  const uint32_t likely = min(output.logprobs, static_cast<uint32_t>(kLogprobsMax)) - 1;
  if (likely == 0) return;
  gather_likely(row, likely, found);
  if (threadIdx.x >= likely) return;
  const Logprob mine = found[threadIdx.x];
  uint32_t before = 0;
  for (uint32_t other = 0; other < likely; ++other) before += comes_before(found[other], mine);
  out[1 + before] = Logprob{mine.token, logprob(mine.logprob)};
}

// The largest of a row's logits as they are.
__device__ float reduce_max(const SampleParams& p, const float* logits) {
  float mine = -INFINITY;
  for (uint32_t token = threadIdx.x; token < p.vocab; token += kRowThreads) {
    mine = fmaxf(mine, logits[token]);
  }
  return block_max<kRowThreads>(mine);
}

}  // namespace binfer

// penalties.cuh: what biases and penalties make of a logit: worker/src/backend/penalties.rs for the
// device, to the bit. A slot has a count for each token; those of 0 leave the logit alone.
#pragma once

#include "sample_params.h"

namespace binfer {

constexpr uint32_t kHasBias = 1u << 14;
constexpr uint32_t kSampledCount =
    kHasBias - 1;  // the rest but the highest bit: times it was sampled

// Changes the logits of one row; by default it does not.
struct Adjust {
  const uint16_t* token_counts = nullptr;  // [vocab] of the slot
  const Bias* biases = nullptr;       // by rising token
  uint32_t bias_count = 0;
  float repetition = 1.0f;
  float frequency = 0.0f;
  float presence = 0.0f;

  __device__ float operator()(uint32_t token, float logit) const {
    if (token_counts == nullptr) return logit;
    const uint32_t count = token_counts[token];
    return count == 0 ? logit : adjusted(token, count, logit);
  }

  // Every operation is rounded by itself, as on the CPU.
  __device__ float adjusted(uint32_t token, uint32_t count, float logit) const {
    if (count & kHasBias) logit = __fadd_rn(logit, bias(token));
    if (count & ~kHasBias) {
      logit = logit > 0.0f ? __fdiv_rn(logit, repetition) : __fmul_rn(logit, repetition);
    }
    const uint32_t sampled = count & kSampledCount;
    if (sampled == 0) return logit;
    logit = __fsub_rn(logit, __fmul_rn(frequency, static_cast<float>(sampled)));
    return __fsub_rn(logit, presence);
  }

  // By halving: the first that is not below the token.
  __device__ float bias(uint32_t token) const {
    uint32_t first = 0, end = bias_count;
    while (first < end) {
      const uint32_t middle = (first + end) / 2;
      if (biases[middle].token < token) {
        first = middle + 1;
      } else {
        end = middle;
      }
    }
    return first < bias_count && biases[first].token == token ? biases[first].value : 0.0f;
  }
};

__device__ inline Adjust adjust_of(const SampleParams& p, const StepOutput& output) {
  if (!(output.adjusted & kPenalised)) return Adjust{};
  const size_t slot = output.slot;
  return Adjust{p.token_counts + slot * p.vocab,  p.biases + slot * kBiasesMax, output.biases,
                output.repetition_penalty,   output.frequency_penalty,     output.presence_penalty};
}

// One thread of the grid for each slot.
__device__ inline void count_sampled(const SampleParams& p, uint32_t slot, uint32_t token) {
  uint16_t& count = p.token_counts[static_cast<size_t>(slot) * p.vocab + token];
  if ((count & kSampledCount) < kSampledCount) ++count;
}

}  // namespace binfer

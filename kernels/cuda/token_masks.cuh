// token_masks.cuh: which tokens each output of a step may be. Masks come while the step runs, so
// sampling waits for them, in place: the host writes them into mapped memory, then the word that
// says so, and needs no kernel for that. Nobody else may be waited for, and the word may also say
// that none come.
#pragma once

#include "ptx.cuh"
#include "sample_params.h"

namespace binfer {

// Of one row; by default it allows all.
struct Mask {
  const uint32_t* bits = nullptr;

  __device__ bool allows(uint32_t token) const {
    return bits == nullptr || (bits[token / 32] >> (token % 32) & 1) != 0;
  }
};

// The row's mask for tokens from `first` to `end`, once it has come; all threads of a block call
// it. Device memory gets it, too, for mask_of in the next kernel. Given up is as if there were
// none.
__device__ inline Mask await_mask(const SampleParams& p, uint32_t row, uint32_t first,
                                  uint32_t end) {
  __shared__ bool is_masked;
  const size_t stride = 1 + p.masks.words;
  const uint32_t slot = p.step.state->ring_slot % kMaskSlots;
  const uint32_t* state = p.masks.given + slot * (1 + p.outputs_max * stride);
  const uint32_t* from = state + 1 + row * stride;
  uint32_t* to = p.masks.kept + row * stride;
  if (threadIdx.x == 0) {
    uint32_t word = ptx::load_acquire_system(state);
    while (word == kMasksAwaited) {
      // Not sooner: a thousand blocks may be asking, all over the same bus.
      __nanosleep(2000);
      word = ptx::load_acquire_system(state);
    }
    is_masked = word == kMasksGiven && __ldcv(from) != 0;
    if (first == 0) to[0] = is_masked;
  }
  __syncthreads();
  if (!is_masked) return Mask{};
  for (uint32_t word = first / 32 + threadIdx.x; word < (end + 31) / 32; word += blockDim.x) {
    to[1 + word] = __ldcv(from + 1 + word);
  }
  __syncthreads();
  return Mask{to + 1};
}

// The row's mask, whole, as await_mask left it.
__device__ inline Mask mask_of(const SampleParams& p, const StepOutput& output, uint32_t row) {
  if (!(output.adjusted & kMasked)) return Mask{};
  const uint32_t* kept = p.masks.kept + row * static_cast<size_t>(1 + p.masks.words);
  return Mask{kept[0] != 0 ? kept + 1 : nullptr};
}

}  // namespace binfer

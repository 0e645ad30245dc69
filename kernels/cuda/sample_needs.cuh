// What of an output the head can say by itself (lm_head_gemm.cu), and what needs its logits.
#pragma once

#include "params.h"

namespace binfer {

// Whether top-k, top-p or min-p leave tokens out.
__device__ inline bool is_limited(const StepOutput& output, uint32_t vocab) {
  return output.temperature > 0.0f && ((output.top_k > 0 && output.top_k < vocab) ||
                                       output.top_p < 1.0f || output.min_p_depth < INFINITY);
}

// Whether the head's statistics are of the logits that the output is sampled from: no penalties,
// biases or masks; and at temperatures below this, single precision has no room for the noise.
__device__ inline bool takes_head_statistics(const StepOutput& output) {
  return !output.adjusted && (output.temperature == 0.0f || output.temperature >= 1e-5f);
}

// Whether anything reads the output's logits in memory.
__device__ inline bool needs_logits(const StepOutput& output, uint32_t vocab) {
  return !takes_head_statistics(output) || is_limited(output, vocab) || output.logprobs > 0;
}

}  // namespace binfer

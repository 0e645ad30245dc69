// Parameters of the kernels that stand between ranks, beside those of params.h, whose rules they
// follow.
#pragma once

#include "params.h"

constexpr int kRanksMax = 64;

// logits[output][first_tokens[rank] + i] = gathered[rank][output][i]
struct MergeLogitsParams {
  const float* gathered;  // [ranks][outputs][stride]
  float* logits;          // [outputs][vocab]
  uint32_t outputs;       // of the launch
  uint32_t stride;        // at least the rows of any rank
  uint32_t vocab;
  uint32_t first_tokens[kRanksMax + 1];  // by rank; vocab from the last rank on
};
BINFER_SIZE(MergeLogitsParams, 288);

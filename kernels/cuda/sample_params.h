// Parameters of sampling, beside those of params.h, whose rules they follow.
#pragma once

#include "params.h"

// What a tile of a row of logits came to.
struct SampleTile {
  double noisy_score;  // best of logit / temperature + noise
  uint32_t noisy_token;
  float top_logit;
  uint32_t top_token;  // the lowest id that has it
  uint32_t finite;
};
BINFER_SIZE(SampleTile, 24);

// Added to a token's logit.
struct Bias {
  uint32_t token;
  float value;
};
BINFER_SIZE(Bias, 8);

// How likely a token was.
struct Logprob {
  uint32_t token;
  float logprob;
};
BINFER_SIZE(Logprob, 8);

constexpr int kBiasesMax = 300;
constexpr int kLogprobsMax = 21;

// Steps under way that have masks, each in a slot of its own: the ring's slot modulo this.
constexpr int kMaskSlots = 2;
// A slot's first word while masks have not come, once they have, and when none will.
constexpr uint32_t kMasksAwaited = 0;
constexpr uint32_t kMasksGiven = 1;
constexpr uint32_t kMasksGivenUp = 2;

// Masks of outputs. A row is a word that says whether it has one, and its bits, the lowest first.
struct MaskParams {
  const uint32_t* given;  // mapped host memory: [kMaskSlots][1 + outputs_max * (1 + words)]
  uint32_t* kept;         // [outputs_max][1 + words]: of the step that samples
  uint32_t words;         // of bits
  uint32_t reserved;
};
BINFER_SIZE(MaskParams, 24);

struct SampleParams {
  StepTables step;
  const float* logits;  // [outputs, vocab]; never written
  SampleTile* tiles;    // [outputs, tiles_per_row]
  StepResult* sampled;  // [outputs]
  int32_t* last_tokens;
  uint16_t* token_counts;  // [slots, vocab]: see worker/src/backend/penalties.rs
  const Bias* biases;  // [slots, kBiasesMax], by rising token
  Logprob* logprobs;   // mapped host memory: [ring slots][outputs_max][kLogprobsMax]
  MaskParams masks;
  uint32_t vocab;
  uint32_t tiles_per_row;  // room for them
  uint32_t outputs_max;
  uint32_t head_partials;  // tiles of rows that lm_head_gemm.cu made; 0 where it did not
};
BINFER_SIZE(SampleParams, 144);

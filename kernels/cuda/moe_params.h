// Parameters of mixtures of experts, beside those of params.h, whose rules they follow.
//
// A token has top_k slots, one for each expert that was chosen for it: slot = token * top_k + i.
// Slots of experts of this rank are sorted by expert: a slot's place among them is its position.
// Slots of other ranks' experts, and those of padding, have none.
#pragma once

#include "gemm_params.h"

// No expert, no position.
constexpr uint32_t kNone = 0xffffffff;
constexpr int kExpertsMax = 512;
constexpr int kTopKMax = 32;
// Slots that one block of moe_sort places.
constexpr int kChunkSlotsMax = 4096;

// RouterScores of shard-tool/src/spec.rs.
enum RouterScores { ROUTER_SOFTMAX = 0, ROUTER_SIGMOID = 1 };
// GroupScore of shard-tool/src/spec.rs.
enum ExpertGroupScore { GROUP_MAX = 0, GROUP_TOP_TWO_SUM = 1 };

// Consecutive positions of one expert, which a block of a grouped gemm multiplies. An empty tile
// has count 0.
struct MoeTile {
  uint32_t expert;  // of this rank's
  uint32_t first;   // position
  uint32_t count;
  uint32_t reserved;
};
BINFER_SIZE(MoeTile, 16);

// Logits become experts and their weights; see moe_route.cu.
struct MoeRouteParams {
  const StepState* state;   // tokens from state->tokens on are padding
  const float* logits;      // [tokens][experts]
  const float* bias;        // [experts], added to logits, or null
  const float* correction;  // [experts], added to scores for the choice alone, or null
  uint32_t* experts_of;     // [tokens][top_k]: the expert of each slot, or kNone
  float* weights;           // [tokens][top_k]
  uint32_t* counts;         // [chunks][experts]: slots of each chunk of tokens
  uint32_t tokens;
  uint32_t experts;       // of all ranks
  uint32_t top_k;
  uint32_t chunk_tokens;  // of a block
  uint32_t scores;        // enum RouterScores
  uint32_t normalize;     // weights are divided by their sum
  float scale;            // of weights
  uint32_t expert_groups;  // 0: experts are chosen among all
  uint32_t groups_kept;
  uint32_t group_score;  // enum ExpertGroupScore
};
BINFER_SIZE(MoeRouteParams, 96);

// Slots become positions and tiles; see moe_route.cu.
struct MoeSortParams {
  const uint32_t* experts_of;  // [slots]
  const uint32_t* counts;      // [chunks][experts]
  uint32_t* positions;         // [slots]: position, or kNone
  uint32_t* slots_at;          // [positions]: slot
  MoeTile* tiles;              // [tiles_max]: by rising expert, then empty ones
  uint32_t slots;
  uint32_t experts;
  uint32_t chunks;
  uint32_t chunk_slots;
  uint32_t first_expert;  // of this rank
  uint32_t local_experts;
  uint32_t tile_tokens;
  uint32_t tiles_max;
};
BINFER_SIZE(MoeSortParams, 72);

// out[position] = x[row of position] * weight[expert]^T, for the positions of each tile. The gated
// kernels make of gate and up, both biased,
//   min(gate, limit) * sigmoid(alpha * min(gate, limit)) * (clamp(up, -limit, limit) + up_offset).
struct MoeGemmParams {
  const void* x;             // T [rows][in_features]
  const void* weight;        // of all experts: gate rows of one, then its up rows, where gated
  const float* bias;         // [rows of weight], or null
  void* out;                 // T [positions][out_features]
  const MoeTile* tiles;      // [tiles_max]
  const uint32_t* slots_at;  // x row of a position is that of its slot's token; null: the position
  uint32_t top_k;
  uint32_t tiles_max;
  uint32_t in_features;
  uint32_t out_features;  // half of an expert's rows where gated
  uint32_t stride;        // elements from a row of the weight to the next, padding included
  float alpha;
  float limit;
  float up_offset;
};
BINFER_SIZE(MoeGemmParams, 80);

// The same for Hopper, with the copy engine and wgmma; see moe_gemm_sm90.cu. Rows of x lie in the
// order of positions. N is the kernel's, and that of the tiles.
struct MoeGemmSm90Params {
  TensorMap x;             // T [positions][in_features]; box: 64 k by N positions
  TensorMap weight;        // see moe_gemm_sm90.cu
  const float* bias;       // [rows of weight], or null
  void* out;               // T [positions][out_stride]; f32 where the epilogue says so
  const MoeTile* tiles;    // [tiles_max]; null: one expert, N tokens a tile
  uint32_t tiles_max;
  uint32_t in_features;
  uint32_t out_features;   // half of an expert's rows where gated; a multiple of 8
  uint32_t stages;         // of the ring
  float alpha;
  float limit;
  float up_offset;
  uint32_t tokens;         // where tiles is null
  uint32_t out_stride;
  int32_t epilogue;        // enum Epilogue, of kernels that have one
};
BINFER_SIZE(MoeGemmSm90Params, 320);

// Tokens go to the positions of their slots: out[position] = x[token].
struct MoeGatherParams {
  const void* x;              // T [tokens][hidden]
  void* out;                  // T [positions][hidden]
  const uint32_t* positions;  // [slots]
  uint32_t hidden;            // a multiple of 8
  uint32_t top_k;
};
BINFER_SIZE(MoeGatherParams, 32);

// out[token] = residual[token] + sum over slots of weight * expert_out[position], in their order.
struct MoeCombineParams {
  const float* residual;      // [tokens][hidden]; null: another rank adds it
  const void* expert_out;     // T [positions][hidden]
  const uint32_t* positions;  // [tokens][top_k]
  const float* weights;       // [tokens][top_k]
  float* out;                 // [tokens][hidden], may be residual
  uint32_t hidden;
  uint32_t top_k;
};
BINFER_SIZE(MoeCombineParams, 48);

// inner[token] *= sigmoid(x[token] * gate)
struct SharedGateParams {
  const void* x;      // T [tokens][hidden]
  const float* gate;  // [hidden]
  void* inner;        // T [tokens][inner_cols]
  uint32_t hidden;
  uint32_t inner_cols;
};
BINFER_SIZE(SharedGateParams, 32);

// A checkpoint's packed blocks become the device's; see repack.cu.
struct RepackParams {
  const uint8_t* from;  // [rows][row_bytes]; null: random weights
  uint8_t* to;
  uint32_t* refused;  // 1 + what cannot be kept exactly, the largest, or 0
  uint64_t row_bytes;
  uint64_t seed;         // of random weights
  uint32_t rows;
  uint32_t cols;         // elements of a row, the same on both sides
  uint32_t first_block;  // of each row, that is kept
  uint32_t row_blocks;   // of the device's
};
BINFER_SIZE(RepackParams, 56);

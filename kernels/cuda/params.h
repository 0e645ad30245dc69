// Parameters of every kernel: one plain struct each, passed by value. src/params.rs holds the twins
// for Rust. Both sides assert the sizes, so a field added on one side alone does not compile.
// Pointers are device addresses. Sizes are in elements unless a name says otherwise. T is the type
// of weights, cache and inner activations: bf16 or f16, as the kernel's name says.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define BINFER_SIZE(type, bytes) static_assert(sizeof(type) == (bytes), "src/params.rs: " #type)

// What the step under way is, in device memory. Kernels read counts from here: launch shapes are
// those of a bucket and say nothing about how much of it is real.
struct StepState {
  uint32_t tokens;       // input tokens
  uint32_t rows;         // sequences
  uint32_t decode_rows;  // the first so many rows feed one token each
  uint32_t outputs;      // tokens to sample
  uint32_t ring_slot;    // where the step's delta lies; apply writes it
  uint32_t next_slot;    // where the next step's delta will lie; finish writes it
  uint32_t reserved[2];
};
BINFER_SIZE(StepState, 32);

// One sequence's tokens in the flat matrix. A padding row has count 0.
struct StepRow {
  uint32_t first;  // index of its first token
  uint32_t count;  // tokens fed
  uint32_t start;  // position of its first token
  uint32_t slot;
};
BINFER_SIZE(StepRow, 16);

// One input token, as the host sends it.
struct StepInput {
  int32_t token;  // >= 0: the id; < 0: the last sample of slot ~token
  uint32_t position;
  uint32_t row;
  uint32_t reserved;
};
BINFER_SIZE(StepInput, 16);

// Bits of StepOutput::adjusted.
constexpr uint32_t kPenalised = 1;
constexpr uint32_t kMasked = 2;

// One token to sample.
struct StepOutput {
  uint32_t token;  // index of the input token whose logits are wanted
  uint32_t slot;
  uint32_t position;  // of the sampled token
  uint32_t choice;
  uint64_t seed;
  float temperature;
  float top_p;
  uint32_t top_k;
  float min_p_depth;  // logits further below the largest are out
  float repetition_penalty;
  float frequency_penalty;
  float presence_penalty;
  uint32_t biases;    // of the slot
  uint32_t adjusted;  // kPenalised: by penalties or biases; kMasked: by the step's masks; or 0
  uint32_t logprobs;  // of the sampled token and of so many less one most likely ones; 0: none
};
BINFER_SIZE(StepOutput, 64);

// A block appended to, or changed in, a block table.
struct TableUpdate {
  uint32_t index;  // into block_tables
  uint32_t block;
};
BINFER_SIZE(TableUpdate, 8);

// First bytes of a ring slot.
struct StepHeader {
  uint32_t tokens;
  uint32_t rows;
  uint32_t decode_rows;
  uint32_t outputs;
  uint32_t updates;
  uint32_t reserved[3];
};
BINFER_SIZE(StepHeader, 32);

// What a sampled row came to, as the host reads it.
struct StepResult {
  uint32_t token;
  uint32_t finite;
  uint64_t digest;  // of the row's hidden state
};
BINFER_SIZE(StepResult, 16);

// The tables of the step under way. The first kernel of a step fills them; the others read them.
struct StepTables {
  StepState* state;
  int32_t* token_ids;   // [tokens]; -1 for padding
  uint32_t* positions;  // [tokens]; 0 for padding
  int32_t* row_of;      // [tokens]; -1 for padding
  StepRow* rows;        // [rows]
  StepOutput* outputs;  // [outputs]
};
BINFER_SIZE(StepTables, 48);

struct ApplyParams {
  StepTables step;
  const uint8_t* ring;  // mapped host memory: slots of ring_bytes
  const int32_t* last_tokens;
  int32_t* block_tables;  // [group][slot][blocks of a slot]
  uint64_t ring_bytes;
  uint64_t rows_offset;  // within a slot, in bytes, as the next two; inputs follow the header
  uint64_t outputs_offset;
  uint64_t updates_offset;
  uint32_t tokens;  // of the bucket, as the next two
  uint32_t rows;
  uint32_t outputs;
  uint32_t reserved;
};
BINFER_SIZE(ApplyParams, 120);

struct FinishParams {
  StepTables step;
  const void* hidden;  // T [outputs, cols]: the hidden states, normed, that logits were made of
  const StepResult* sampled;
  StepResult* results;  // mapped host memory: [ring slots][outputs_max]
  uint32_t cols;
  uint32_t outputs_max;
  uint32_t ring_slots;
  uint32_t reserved;
};
BINFER_SIZE(FinishParams, 88);

struct EmbedParams {
  StepTables step;
  const void* table;  // T [rows, stride]
  float* out;         // [tokens, cols]
  uint32_t cols;
  uint32_t stride;
  uint32_t first_token;
  uint32_t table_rows;
};
BINFER_SIZE(EmbedParams, 80);

// out[i] = norm(x[gather ? outputs[i].token : i]) * scale
struct NormParams {
  const StepOutput* gather;  // null: row i of x
  const float* x;            // [tokens, cols]
  const float* scale;        // [cols]
  void* out;                 // T [rows, cols]
  uint32_t cols;
  float eps;
};
BINFER_SIZE(NormParams, 40);

constexpr int kRopePairsMax = 128;

// Cosines and sines of the step's positions.
struct RopeParams {
  StepTables step;
  float* table;  // [tokens][cosines of all pairs, then sines]
  uint32_t pairs;
  float factor;  // of both
  float frequencies[kRopePairsMax];
};
BINFER_SIZE(RopeParams, 576);

// Random weights, for measurements: uniform in -range..range, or all one.
struct FillParams {
  void* out;  // T or float
  uint64_t count;
  uint64_t seed;
  float range;  // 0: ones
  uint32_t reserved;
};
BINFER_SIZE(FillParams, 32);

// The time when all that was launched before is over.
struct StampParams {
  const StepState* state;
  uint64_t* out;  // mapped, [ring slot][places]
  uint32_t place;
  uint32_t places;
  uint32_t is_first;  // of a step, before apply has moved the ring on
  uint32_t reserved;
};
BINFER_SIZE(StampParams, 32);

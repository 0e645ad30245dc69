// Parameters of the fast kernels, beside those of params.h, whose rules they follow. Structs that
// hold tensor maps are aligned to 64 bytes.
#pragma once

#include "sample_params.h"

// What cuTensorMapEncodeTiled fills.
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};

// What becomes of a product's sums.
enum StreamStore {
  STREAM_STORE = 0,      // out = T(sum + bias)
  STREAM_STORE_GLU = 1,  // out = T(silu(gate + bias) * (up + bias))
  STREAM_ADD_F32 = 2,    // out += sum + bias, f32
  STREAM_STORE_F32 = 3,  // out = sum + bias, f32
  STREAM_HEAD = 4,       // out = sum, f32, where it is needed, and statistics: head_product.cu
};

// out[token][row] = sum over k of weight[row][k] * x[token][k]; see stream_product.cu. A norm may
// be shared out among the products around it, see stream_finish.cuh: N is the kernel's.
struct StreamProductParams {
  TensorMap weight;          // box: 64 k by tile_rows rows
  TensorMap x;               // box: 64 k by N tokens
  void* out;                 // T or f32 [tokens][out_stride]
  const float* bias;         // [weight rows], or null
  const float* squares;      // [parts][N]: sums of squares of what x was scaled from, or null
  const float* next_scale;   // [out_rows]: of the norm of out, with ADD_F32, or null
  void* next_x;              // T [tokens][out_stride]: out * next_scale
  float* next_squares;       // [tiles * cluster][N]: sums of squares of out
  int32_t parts;
  float eps;                 // of the norm whose squares are given
  int32_t out_rows;          // weight rows; half of them for GLU
  int32_t inputs;            // k
  int32_t tokens;            // 1..N, stored
  int32_t out_stride;        // elements
  int32_t store;             // enum StreamStore
  int32_t tile_rows;         // a multiple of 8, of 16 for GLU
  int32_t stages;            // of the ring, at most 24
  int32_t start_next_ahead;  // chunks left to ask for when the next kernel may start
};

// Logits and their statistics; see head_product.cu.
struct HeadProductParams {
  StreamProductParams product;  // store: HEAD, tokens: outputs, or padding
  StepTables step;
  SampleTile* tiles;  // [outputs][tiles_per_row], of which the head writes one for each of its blocks
  uint32_t tiles_per_row;
  uint32_t vocab;
  uint32_t first_token;  // id of the weight's first row
};

// The same without the copy engine; see narrow_product.cu. N and R are tokens and rows of the kernel's
// tile.
struct NarrowProductParams {
  const void* weight;  // T [rows][stride]; for GLU gate rows, then as many up rows
  const void* x;       // T [tokens][inputs]
  const float* bias;   // [weight rows], or null
  void* out;           // T or f32 [tokens][out_stride]
  float* pieces;       // [2 * grid][N * R]
  uint32_t* arrivals;  // [grid], zero before the first launch, and after each
  int32_t out_rows;    // weight rows; half of them for GLU
  int32_t inputs;      // k
  int32_t stride;      // elements
  int32_t tokens;
  int32_t out_stride;  // elements
  int32_t store;       // enum StreamStore
};

// Attention of a step's decode rows, one token each; see decode_attend.cu.
struct DecodeAttendParams {
  AttendParams attend;  // block_tokens 64; all of a head is rotated
  const uint32_t* pages;       // [rows + 1]: pages that the rows before see; see attend_plan.cu
  float* partials;             // [2 * grid][heads / kv_heads][head_dim + 2]
  uint32_t* arrivals;          // [rows * kv_heads], zero before the first launch, and after each
  uint32_t rows;               // of the launch, decode rows or padding
  uint32_t reserved;
};

// Up to 128 / (heads / kv_heads) tokens of one sequence.
struct PrefillTile {
  uint32_t token;     // first, in the step
  uint32_t count;     // 0: nothing to do
  uint32_t position;  // of the first
  uint32_t slot;
};

// Attention of chunk tokens, whose keys and values the cache already holds; see prefill_attend.cu.
struct PrefillAttendParams {
  TensorMap queries;  // [tokens][heads][head_dim] of qkv, normed and rotated
  TensorMap keys;     // [blocks][kv_heads][64][head_dim]
  TensorMap values;
  AttendParams attend;  // out, table, table_stride, heads, kv_heads, window, scale
  const PrefillTile* tiles;    // [tile_count], those without tokens last; see attend_plan.cu
  uint32_t tile_count;
  uint32_t reserved;
};

// What decode_attend and prefill_attend divide among their blocks, of one KV group and window.
struct AttendPlanParams {
  StepTables step;
  uint32_t* pages;       // [rows + 1]
  PrefillTile* tiles;    // [tiles_max]
  uint32_t rows;         // of the launch
  uint32_t tiles_max;
  uint32_t tile_tokens;  // 128 / (heads / kv_heads)
  uint32_t window;       // 0: all
};

BINFER_SIZE(TensorMap, 128);
BINFER_SIZE(PrefillTile, 16);
BINFER_SIZE(StreamProductParams, 384);
BINFER_SIZE(HeadProductParams, 512);
BINFER_SIZE(NarrowProductParams, 72);
BINFER_SIZE(DecodeAttendParams, 192);
BINFER_SIZE(PrefillAttendParams, 576);
BINFER_SIZE(AttendPlanParams, 80);

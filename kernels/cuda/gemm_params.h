// Parameters of gemms, beside those of params.h, whose rules they follow. Structs that hold tensor
// maps are aligned to 64 bytes. m is a number of tokens, n of output features, k of input features.
#pragma once

#include "sample_params.h"

// What cuTensorMapEncodeTiled fills.
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};

// What becomes of a gemm's sums: Epilogue of src/gemm.rs.
enum Epilogue {
  EPILOGUE_STORE = 0,      // out = T(sum + bias)
  EPILOGUE_GLU = 1,        // out = T(silu(gate + bias) * (up + bias))
  EPILOGUE_ADD_F32 = 2,    // out += sum + bias, f32
  EPILOGUE_STORE_F32 = 3,  // out = sum + bias, f32
  EPILOGUE_LM_HEAD = 4,    // out = sum, f32, where it is needed, and statistics: lm_head_gemm.cu
};

// out[token][feature] = sum over k of weight[feature][k] * x[token][k]; see skinny_gemm_sm90.cu.
// Two gemms may share the norm between them, see skinny_gemm_epilogue.cuh. M: tokens of the
// kernel's tile.
struct SkinnyGemmParams {
  TensorMap weight;          // box: 64 k by tile_n features
  TensorMap x;               // box: 64 k by M tokens
  void* out;                 // T or f32 [tokens][out_stride]
  const float* bias;         // [features of the weight], or null
  const float* squares;      // [partials][M]: sums of squares of what x was scaled from, or null
  const float* next_scale;   // [out_features]: of the norm of out, with ADD_F32, or null
  void* next_x;              // T [tokens][out_stride]: out * next_scale
  float* next_squares;       // [tiles * cluster][M]: sums of squares of out
  int32_t partials;          // of squares
  float eps;                 // of the norm whose squares are given
  int32_t out_features;      // of the weight; half of its rows for GLU
  int32_t in_features;       // k
  int32_t tokens;            // 1..M, stored
  int32_t out_stride;        // elements
  int32_t epilogue;          // enum Epilogue
  int32_t tile_n;            // a multiple of 8, of 16 for GLU
  int32_t stages;            // of the ring, at most 24
  int32_t start_next_ahead;  // chunks left to ask for when the next kernel may start
};
BINFER_SIZE(TensorMap, 128);
BINFER_SIZE(SkinnyGemmParams, 384);

// Logits and their statistics; see lm_head_gemm.cu.
struct LmHeadGemmParams {
  SkinnyGemmParams gemm;  // epilogue: LM_HEAD, tokens: outputs, or padding
  StepTables step;
  SampleTile* tiles;  // [outputs][tiles_per_row], of which each block of the head writes one
  uint32_t tiles_per_row;
  uint32_t vocab;
  uint32_t first_token;  // id of the weight's first row
};
BINFER_SIZE(LmHeadGemmParams, 512);

// The gemm without the copy engine; see stream_k_gemm.cu. M and N are tokens and features of the
// kernel's tile.
struct StreamKGemmParams {
  const void* weight;    // T [features][stride]; for GLU gate rows, then as many up rows
  const void* x;         // T [tokens][in_features]
  const float* bias;     // [features of the weight], or null
  void* out;             // T or f32 [tokens][out_stride]
  float* partials;       // [2 * grid][M * N]: what blocks have of tiles that they share
  uint32_t* arrivals;    // [grid], zero before the first launch, and after each
  int32_t out_features;  // of the weight; half of its rows for GLU
  int32_t in_features;   // k
  int32_t stride;        // elements
  int32_t tokens;
  int32_t out_stride;  // elements
  int32_t epilogue;    // enum Epilogue
};
BINFER_SIZE(StreamKGemmParams, 72);

// The gemm for any shape and alignment; see gemm_reference.cu.
struct ReferenceGemmParams {
  const void* x;       // T [tokens][in_features]
  const void* weight;  // T [features][stride]; for GLU gate rows, then as many up rows
  const float* bias;   // [features of the weight], or null
  void* out;           // T or f32 [tokens][out_stride]
  uint32_t tokens;
  uint32_t in_features;
  uint32_t out_features;  // columns of out; for GLU half of the weight's rows
  uint32_t stride;
  uint32_t out_stride;
  uint32_t reserved;
};
BINFER_SIZE(ReferenceGemmParams, 56);

// What is left to do behind a library's gemm: out = silu(gate) * up with sums = [gate, up], biased;
// or out = sums + bias, in place.
struct EpilogueParams {
  const void* sums;   // T [tokens, 2 out_features] or [tokens, out_features]
  const float* bias;  // or null
  void* out;          // T or f32 [tokens, out_features]
  uint32_t tokens;
  uint32_t out_features;
};
BINFER_SIZE(EpilogueParams, 32);

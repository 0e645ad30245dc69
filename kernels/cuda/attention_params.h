// Parameters of attention, beside those of params.h, whose rules they follow. Structs that hold
// tensor maps are aligned to 64 bytes.
#pragma once

#include "gemm_params.h"

// Attention of the step's tokens over one layer's cache.
struct AttentionParams {
  StepTables step;
  void* qkv;             // T [tokens, (heads + 2 kv_heads) * head_dim]
  void* out;             // T [tokens, heads * head_dim]
  const float* q_norm;   // [head_dim] or null
  const float* k_norm;   // [head_dim] or null
  const float* sinks;    // [heads] or null: scores without values
  const float* rope;     // see RopeParams::table
  void* keys;            // T [block][kv_head][token of block][head_dim]
  void* values;          // likewise
  const int32_t* table;  // [slot][table_stride] of the layer's KV group
  uint32_t table_stride;
  uint32_t block_tokens;
  uint32_t heads;
  uint32_t kv_heads;
  uint32_t head_dim;
  uint32_t pairs;   // rotated pairs of a head
  uint32_t window;  // last positions attended to; 0: all
  float eps;
  float scale;  // of scores
  uint32_t tokens;  // of the launch
};
BINFER_SIZE(AttentionParams, 160);

// Attention of a step's decode rows, one token each; see decode_attention.cu.
struct DecodeAttentionParams {
  AttentionParams attention;  // block_tokens 64; all of a head is rotated
  const uint32_t* pages;      // [rows + 1]: pages that the rows before see; attention_schedule.cu
  float* partials;            // [2 * grid][heads / kv_heads][head_dim + 2]
  uint32_t* arrivals;         // [rows * kv_heads], zero before the first launch, and after each
  uint32_t rows;              // of the launch, decode rows or padding
  uint32_t reserved;
};
BINFER_SIZE(DecodeAttentionParams, 192);

// Up to 128 / (heads / kv_heads) tokens of one sequence.
struct PrefillTile {
  uint32_t token;     // first, in the step
  uint32_t count;     // 0: nothing to do
  uint32_t position;  // of the first
  uint32_t slot;
};
BINFER_SIZE(PrefillTile, 16);

// Attention of chunk tokens, whose keys and values the cache holds; see prefill_attention_sm90.cu.
struct PrefillAttentionParams {
  TensorMap queries;  // [tokens][heads][head_dim] of qkv, normed and rotated
  TensorMap keys;     // [blocks][kv_heads][64][head_dim]
  TensorMap values;
  AttentionParams attention;  // out, table, table_stride, heads, kv_heads, window, scale
  const PrefillTile* tiles;   // [tile_count], those without tokens last; attention_schedule.cu
  uint32_t tile_count;
  uint32_t first_head;  // KV heads of the launch
  uint32_t head_count;
  uint32_t reserved;
};
BINFER_SIZE(PrefillAttentionParams, 576);

// What decode_attention and prefill_attention divide among their blocks, of one KV group and
// window.
struct AttentionScheduleParams {
  StepTables step;
  uint32_t* pages;       // [rows + 1]
  PrefillTile* tiles;    // [tiles_max]
  uint32_t rows;         // of the launch
  uint32_t tiles_max;
  uint32_t tile_tokens;  // 128 / (heads / kv_heads)
  uint32_t window;       // 0: all
};
BINFER_SIZE(AttentionScheduleParams, 80);

// Latent attention (MLA) of a step's tokens over one layer's cache, queries against the latents
// themselves; see latent_attention_reference.cu.
struct LatentAttentionParams {
  StepTables step;
  void* queries;             // T [tokens][heads][nope + 2 pairs], as the gemm left them
  const void* latents;       // T [tokens][latent_dim + 2 pairs], as the gemm left them
  const float* latent_norm;  // [latent_dim]
  const float* rope;         // see RopeParams::table
  void* entries;             // T [block][token of block][latent_dim + 2 pairs]: normed and rotated
  const int32_t* table;      // [slot][table_stride] of the layer's KV group
  void* absorbed;            // T [tokens of the launch][heads][latent_dim + 2 pairs]: queries
  void* sums;                // T [tokens of the launch][heads][latent_dim]: of weighted latents
  uint32_t table_stride;
  uint32_t block_tokens;
  uint32_t heads;
  uint32_t nope;  // elements of a query head that do not rotate
  uint32_t latent_dim;
  uint32_t pairs;  // rotated pairs of a query head, and of an entry
  float eps;
  float scale;           // of scores
  uint32_t first_token;  // of the launch, in the step
  uint32_t tokens;       // of the launch
};
BINFER_SIZE(LatentAttentionParams, 152);

// Latent attention of decode rows; see latent_decode.cu.
struct LatentDecodeParams {
  LatentAttentionParams latent;  // rows of the step from the launch's first on
  const uint32_t* pages;         // [rows + 1]: pages that the rows before see
  float* partials;               // [2 * grid][16][latent_dim + 2]
  uint32_t* arrivals;            // [rows * tiles of heads], zero before and after each launch
  uint32_t rows;                 // of the launch, decode rows or padding
  uint32_t stages;               // pages that shared memory holds: 1 or 2
};
BINFER_SIZE(LatentDecodeParams, 184);

// Latent attention of a launch's tokens from one on; see latent_prefill.cu.
struct LatentPrefillParams {
  LatentAttentionParams latent;
  uint32_t first_token;  // that is attended, in the step; those before are decode rows
  uint32_t stages;       // pages that shared memory holds: 1 or 2
};
BINFER_SIZE(LatentPrefillParams, 160);

// Keys and values of some heads out of the latents of the sequences that the step's chunks belong
// to, page by page; see latent_expand.cu.
struct LatentExpandParams {
  LatentAttentionParams latent;  // step, entries, table
  const void* k_b;               // T [heads * 512][128]
  const void* v_b;               // T [heads * 128][512]
  void* keys;                    // T [pages][heads of the launch][64][128], the part that does not
                                 // rotate
  void* values;                  // T [pages][heads of the launch][64][128]
  uint32_t* first_pages;         // [slot]: the first page of the slot's sequence
  uint32_t k_b_stride;           // elements from a row to the next
  uint32_t v_b_stride;
  uint32_t first_head;
  uint32_t rows;  // of the step
};
BINFER_SIZE(LatentExpandParams, 208);

// Attention of chunk tokens over expanded keys and values; see prefill_attention_sm90.cu.
struct ExpandedAttentionParams {
  PrefillAttentionParams prefill;  // keys and values as in LatentExpandParams
  TensorMap rotated;               // [blocks][64][64] of the cache: the rotated part of keys
  const uint32_t* first_pages;     // [slot]
};
BINFER_SIZE(ExpandedAttentionParams, 768);

// A gemm for each head: out[token][head] = weight[head] x[token][head]; see head_gemm.cu. Strides
// are in elements.
struct HeadGemmParams {
  const void* x;       // T [tokens][heads][in_features]
  const void* weight;  // T [heads * out_features][in_features]
  void* out;           // T [tokens][heads][out_features]
  uint32_t tokens;
  uint32_t in_features;
  uint32_t out_features;  // of a head
  uint32_t x_stride;      // from a token to the next
  uint32_t x_head_stride;
  uint32_t weight_stride;  // from a row to the next
  uint32_t out_stride;     // from a token to the next
  uint32_t out_head_stride;
};
BINFER_SIZE(HeadGemmParams, 56);

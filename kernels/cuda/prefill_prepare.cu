// prefill_prepare.cu: before prefill_attention: norms (where asked) and rotates the queries of
// chunk tokens, in place in qkv, and puts their keys, normed and rotated too, and values into the
// cache. Decode rows are left to decode_attention.
//
//   qkv    T [tokens][heads + 2 kv_heads][head_dim]
//   cache  T [blocks][kv_heads][block_tokens][head_dim]
//
// Moves each element once; a warp a head, head after head.
//
// Launch: a block a token, kThreads threads. head_dim 64 or 128, all of it rotated.
#include "attention_params.h"
#include "heads.cuh"

namespace prepare {

constexpr int kThreads = 256;

template <typename T, int kDim>
__device__ void run(const AttentionParams& a) {
  ptx::wait_for_earlier_kernels();
  ptx::let_next_kernel_start();
  const int token = blockIdx.x, row = a.step.row_of[token];
  if (row < int(a.step.state->decode_rows)) return;  // padding is -1
  const int position = a.step.positions[token], tokens = a.block_tokens;
  const int block = a.table[size_t(a.step.rows[row].slot) * a.table_stride + position / tokens];
  const heads::Factors turn = heads::read_factors<kDim>(a.rope + size_t(token) * kDim);
  const heads::Factors q_scale = heads::read_factors<kDim>(a.q_norm);
  const heads::Factors k_scale = heads::read_factors<kDim>(a.k_norm);
  const int queries = a.heads, keys = a.kv_heads, all = queries + 2 * keys;
  T* qkv = static_cast<T*>(a.qkv) + size_t(token) * all * kDim;
  for (int head = threadIdx.x / 32; head < all; head += kThreads / 32) {
    const heads::Head x = heads::read_head<T, kDim>(qkv + head * kDim);
    if (head < queries) {
      heads::write_head<T, kDim>(
          qkv + head * kDim,
          heads::norm_and_rotate<T, kDim>(x, a.q_norm != nullptr, a.eps, q_scale, turn));
      continue;
    }
    const bool is_key = head < queries + keys;
    const int kv_head = head - queries - (is_key ? 0 : keys);
    const size_t at = ((size_t(block) * keys + kv_head) * tokens + position % tokens) * kDim;
    heads::write_head<T, kDim>(
        static_cast<T*>(is_key ? a.keys : a.values) + at,
        is_key ? heads::norm_and_rotate<T, kDim>(x, a.k_norm != nullptr, a.eps, k_scale, turn) : x);
  }
}

}  // namespace prepare

#define PREFILL_PREPARE(NAME, T, DIM)                                                   \
  extern "C" __global__ void __launch_bounds__(prepare::kThreads)                       \
      NAME(const __grid_constant__ AttentionParams p) {                                    \
    prepare::run<T, DIM>(p);                                                            \
  }

PREFILL_PREPARE(prefill_prepare_d64_bf16, __nv_bfloat16, 64)
PREFILL_PREPARE(prefill_prepare_d64_f16, __half, 64)
PREFILL_PREPARE(prefill_prepare_d128_bf16, __nv_bfloat16, 128)
PREFILL_PREPARE(prefill_prepare_d128_f16, __half, 128)

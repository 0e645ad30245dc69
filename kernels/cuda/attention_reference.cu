// Attention for heads of up to 256 elements at any alignment, decode rows and chunks alike: the
// plain path, and the reference on the device.
//   qkv_prepare: norms of q and k heads, rope, K and V into the cache. q stays in qkv.
//                Grid: (tokens, heads + 2 kv_heads).
//   attention_reference: scores, softmax and sum over the sequence's cache, all in float, in one
//   pass.
//                Grid: (tokens, heads).
// Blocks of the cache are never assumed clean: nothing past a token's own position is read.
#include "attention_params.h"
#include "common.cuh"

namespace binfer {

constexpr int kAttentionThreads = 128;
constexpr int kHeadDimMax = 256;
constexpr int kEachDim = kHeadDimMax / kAttentionThreads;

// First element of a position's head in the cache.
__device__ inline size_t cache_place(const AttentionParams& p, uint32_t slot, uint32_t kv_head,
                                     uint32_t position) {
  const int32_t* blocks = p.table + static_cast<size_t>(slot) * p.table_stride;
  const size_t block = blocks[position / p.block_tokens];
  const size_t head = block * p.kv_heads + kv_head;
  return (head * p.block_tokens + position % p.block_tokens) * p.head_dim;
}

template <typename T>
__device__ void qkv_prepare(const AttentionParams& p) {
  __shared__ float head[kHeadDimMax];
  wait_for_previous();
  let_next_start();
  const uint32_t token = blockIdx.x, index = blockIdx.y;
  const int32_t row = p.step.row_of[token];
  if (row < 0) return;
  const bool is_q = index < p.heads, is_v = index >= p.heads + p.kv_heads;
  const uint32_t width = (p.heads + 2 * p.kv_heads) * p.head_dim;
  T* x = static_cast<T*>(p.qkv) + static_cast<size_t>(token) * width + index * p.head_dim;
  const float* norm = is_v ? nullptr : is_q ? p.q_norm : p.k_norm;
  float squares = 0.0f;
  for (uint32_t d = threadIdx.x; d < p.head_dim; d += kAttentionThreads) {
    head[d] = to_float(x[d]);
    squares += head[d] * head[d];
  }
  const float mean = block_sum<kAttentionThreads>(squares) / static_cast<float>(p.head_dim);
  const float factor = 1.0f / sqrtf(mean + p.eps);
  if (norm != nullptr) {
    for (uint32_t d = threadIdx.x; d < p.head_dim; d += kAttentionThreads) {
      head[d] *= factor * norm[d];
    }
  }
  __syncthreads();
  T* to = x;
  if (!is_q) {
    const uint32_t kv_head = index - p.heads - (is_v ? p.kv_heads : 0);
    T* cache = static_cast<T*>(is_v ? p.values : p.keys);
    to = cache + cache_place(p, p.step.rows[row].slot, kv_head, p.step.positions[token]);
  }
  const float* cosines = p.rope + static_cast<size_t>(token) * 2 * p.pairs;
  for (uint32_t d = threadIdx.x; d < p.head_dim; d += kAttentionThreads) {
    float turned = head[d];
    if (!is_v && d < 2 * p.pairs) {
      const uint32_t pair = d < p.pairs ? d : d - p.pairs;
      const float sine = cosines[p.pairs + pair];
      const float other = d < p.pairs ? -head[d + p.pairs] : head[pair];
      turned = head[d] * cosines[pair] + other * sine;
    }
    to[d] = from_float<T>(turned);
  }
}

// One query head over a tile of kAttentionThreads positions: a thread a score, then a thread an
// element.
template <typename T>
struct QueryTile {
  const AttentionParams& p;
  const float* query;
  float* weights;
  uint32_t slot;
  uint32_t kv_head;

  __device__ float score(uint32_t position) const {
    const T* key = static_cast<const T*>(p.keys) + cache_place(p, slot, kv_head, position);
    float sum = 0.0f;
    for (uint32_t d = 0; d < p.head_dim; ++d) sum += query[d] * to_float(key[d]);
    return sum * p.scale;
  }

  __device__ void add_values(float (&sums)[kEachDim], uint32_t first, uint32_t count) const {
    for (uint32_t i = 0; i < count; ++i) {
      const T* value =
          static_cast<const T*>(p.values) + cache_place(p, slot, kv_head, first + i);
#pragma unroll
      for (int each = 0; each < kEachDim; ++each) {
        const uint32_t d = threadIdx.x + each * kAttentionThreads;
        if (d < p.head_dim) sums[each] += weights[i] * to_float(value[d]);
      }
    }
  }
};

template <typename T>
__device__ void attention_reference(const AttentionParams& p) {
  __shared__ float query[kHeadDimMax];
  __shared__ float weights[kAttentionThreads];
  wait_for_previous();
  let_next_start();
  const uint32_t token = blockIdx.x, head = blockIdx.y;
  T* out = static_cast<T*>(p.out) + (static_cast<size_t>(token) * p.heads + head) * p.head_dim;
  const int32_t row = p.step.row_of[token];
  const uint32_t end = row < 0 ? 0 : p.step.positions[token] + 1;
  const uint32_t begin = p.window != 0 && end > p.window ? end - p.window : 0;
  const uint32_t width = (p.heads + 2 * p.kv_heads) * p.head_dim;
  const T* q =
      static_cast<const T*>(p.qkv) + static_cast<size_t>(token) * width + head * p.head_dim;
  for (uint32_t d = threadIdx.x; d < p.head_dim; d += kAttentionThreads) query[d] = to_float(q[d]);
  __syncthreads();
  const uint32_t slot = row < 0 ? 0 : p.step.rows[row].slot;
  const QueryTile<T> tile{p, query, weights, slot, head / (p.heads / p.kv_heads)};
  float row_max = -INFINITY, total = 0.0f, sums[kEachDim] = {};
  for (uint32_t first = begin; first < end; first += kAttentionThreads) {
    const uint32_t count = min(end - first, static_cast<uint32_t>(kAttentionThreads));
    const float score = threadIdx.x < count ? tile.score(first + threadIdx.x) : -INFINITY;
    const float before = row_max;
    row_max = fmaxf(row_max, block_max<kAttentionThreads>(score));
    const float shrink = first == begin ? 0.0f : __expf(before - row_max);
    const float weight = threadIdx.x < count ? __expf(score - row_max) : 0.0f;
    weights[threadIdx.x] = weight;
    total = total * shrink + block_sum<kAttentionThreads>(weight);  // its barriers publish weights
#pragma unroll
    for (int each = 0; each < kEachDim; ++each) sums[each] *= shrink;
    tile.add_values(sums, first, count);
    __syncthreads();
  }
  if (p.sinks != nullptr) total += __expf(p.sinks[head] - row_max);
#pragma unroll
  for (int each = 0; each < kEachDim; ++each) {
    const uint32_t d = threadIdx.x + each * kAttentionThreads;
    if (d < p.head_dim) out[d] = from_float<T>(end == 0 ? 0.0f : sums[each] / total);
  }
}

}  // namespace binfer

BINFER_KERNEL(qkv_prepare, AttentionParams, binfer::kAttentionThreads)
BINFER_KERNEL(attention_reference, AttentionParams, binfer::kAttentionThreads)

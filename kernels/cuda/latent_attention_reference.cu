// latent_attention_reference.cu: multi-head latent attention (MLA) of any shape, decode rows and
// chunks alike: the plain path, and the reference on the device.
//
// All heads share one key and value of a position: its latent, normed, and behind it a part that is
// rotated. A query head meets it in the latent's space, where k_b took its part that does not
// rotate (head_gemm.cu), so that nothing is expanded; v_b takes the sum of latents back.
//
//   latent_prepare: the latent's norm and the key's rotation, into the cache; queries' rotated
//                   parts to their places in `absorbed`. Grid: (tokens).
//   latent_attention_reference: scores, softmax and sum over the sequence's cache, in float, in one
//                   pass; a warp a score, then a thread an element. Grid: (tokens, heads).
//
// Blocks of the cache are never assumed clean: nothing past a token's own position is read. Tokens
// of a launch see what this one and earlier launches of the step have prepared, so launches go by
// rising tokens.
#include "attention_params.h"
#include "common.cuh"

namespace binfer {

constexpr int kPrepareThreads = 256;
constexpr int kLatentThreads = 128;
constexpr int kLatentDimMax = 512;
constexpr int kLatentEach = kLatentDimMax / kLatentThreads;

__device__ inline uint32_t entry_width(const LatentAttentionParams& p) {
  return p.latent_dim + 2 * p.pairs;
}

// First element of a position's entry in the cache.
__device__ inline size_t entry_place(const LatentAttentionParams& p, uint32_t slot,
                                     uint32_t position) {
  const int32_t* blocks = p.table + static_cast<size_t>(slot) * p.table_stride;
  const size_t block = blocks[position / p.block_tokens];
  return (block * p.block_tokens + position % p.block_tokens) * entry_width(p);
}

// Rotates pair `pair` of `from`, halves as pairs. `to` may be `from`.
template <typename T>
__device__ void rotate_pair(const LatentAttentionParams& p, const float* cosines, uint32_t pair,
                            const T* from, T* to) {
  const float low = to_float(from[pair]), high = to_float(from[p.pairs + pair]);
  const float cosine = cosines[pair], sine = cosines[p.pairs + pair];
  to[pair] = from_float<T>(low * cosine - high * sine);
  to[p.pairs + pair] = from_float<T>(high * cosine + low * sine);
}

// What a query's rotated part is written to: its head's place for the launch's token.
template <typename T, bool kInPlace>
__device__ T* rotated_query(const LatentAttentionParams& p, T* query, uint32_t head) {
  if (kInPlace) return query + p.nope;
  const size_t place = static_cast<size_t>(blockIdx.x) * p.heads + head;
  return static_cast<T*>(p.absorbed) + place * entry_width(p) + p.latent_dim;
}

template <typename T, bool kInPlace>
__device__ void prepare(const LatentAttentionParams& p) {
  wait_for_previous();
  let_next_start();
  const uint32_t token = p.first_token + blockIdx.x, width = entry_width(p);
  const int32_t row = p.step.row_of[token];
  if (row < 0) return;
  const T* latent = static_cast<const T*>(p.latents) + static_cast<size_t>(token) * width;
  T* entry = static_cast<T*>(p.entries) +
             entry_place(p, p.step.rows[row].slot, p.step.positions[token]);
  float squares = 0.0f;
  for (uint32_t d = threadIdx.x; d < p.latent_dim; d += kPrepareThreads) {
    const float x = to_float(latent[d]);
    squares += x * x;
  }
  const float mean = block_sum<kPrepareThreads>(squares) / static_cast<float>(p.latent_dim);
  const float factor = 1.0f / sqrtf(mean + p.eps);
  for (uint32_t d = threadIdx.x; d < p.latent_dim; d += kPrepareThreads) {
    entry[d] = from_float<T>(to_float(latent[d]) * factor * p.latent_norm[d]);
  }
  const float* cosines = p.rope + static_cast<size_t>(token) * 2 * p.pairs;
  for (uint32_t pair = threadIdx.x; pair < p.pairs; pair += kPrepareThreads) {
    rotate_pair(p, cosines, pair, latent + p.latent_dim, entry + p.latent_dim);
  }
  const uint32_t query_dim = p.nope + 2 * p.pairs;
  T* queries = static_cast<T*>(p.queries) + static_cast<size_t>(token) * p.heads * query_dim;
  for (uint32_t i = threadIdx.x; i < p.heads * p.pairs; i += kPrepareThreads) {
    const uint32_t head = i / p.pairs;
    T* query = queries + head * query_dim;
    rotate_pair(p, cosines, i % p.pairs, query + p.nope, rotated_query<T, kInPlace>(p, query, head));
  }
}

template <typename T>
__device__ void latent_prepare(const LatentAttentionParams& p) {
  prepare<T, false>(p);
}
template <typename T>
__device__ void latent_prepare_in_place(const LatentAttentionParams& p) {
  prepare<T, true>(p);
}

template <typename T>
__device__ void latent_attention_reference(const LatentAttentionParams& p) {
  __shared__ float query[kLatentDimMax + 2 * kRopePairsMax];
  __shared__ float weights[kLatentThreads];
  wait_for_previous();
  let_next_start();
  const uint32_t token = p.first_token + blockIdx.x, head = blockIdx.y, width = entry_width(p);
  const int32_t row = p.step.row_of[token];
  const uint32_t end = row < 0 ? 0 : p.step.positions[token] + 1;
  const uint32_t slot = row < 0 ? 0 : p.step.rows[row].slot;
  const size_t place = static_cast<size_t>(blockIdx.x) * p.heads + head;
  const T* absorbed = static_cast<const T*>(p.absorbed) + place * width;
  const T* entries = static_cast<const T*>(p.entries);
  for (uint32_t d = threadIdx.x; d < width; d += kLatentThreads) query[d] = to_float(absorbed[d]);
  __syncthreads();
  float row_max = -INFINITY, total = 0.0f, sums[kLatentEach] = {};
  for (uint32_t first = 0; first < end; first += kLatentThreads) {
    const uint32_t count = min(end - first, static_cast<uint32_t>(kLatentThreads));
    for (uint32_t i = threadIdx.x / 32; i < count; i += kLatentThreads / 32) {
      const T* entry = entries + entry_place(p, slot, first + i);
      float sum = 0.0f;
      for (uint32_t d = threadIdx.x % 32; d < width; d += 32) sum += query[d] * to_float(entry[d]);
      sum = warp_sum(sum);
      if (threadIdx.x % 32 == 0) weights[i] = sum * p.scale;
    }
    __syncthreads();
    const float score = threadIdx.x < count ? weights[threadIdx.x] : -INFINITY;
    const float before = row_max;
    row_max = fmaxf(row_max, block_max<kLatentThreads>(score));
    const float shrink = first == 0 ? 0.0f : __expf(before - row_max);
    const float weight = threadIdx.x < count ? __expf(score - row_max) : 0.0f;
    weights[threadIdx.x] = weight;
    total = total * shrink + block_sum<kLatentThreads>(weight);  // its barriers publish weights
#pragma unroll
    for (int each = 0; each < kLatentEach; ++each) sums[each] *= shrink;
    for (uint32_t i = 0; i < count; ++i) {
      const T* entry = entries + entry_place(p, slot, first + i);
#pragma unroll
      for (int each = 0; each < kLatentEach; ++each) {
        const uint32_t d = threadIdx.x + each * kLatentThreads;
        if (d < p.latent_dim) sums[each] += weights[i] * to_float(entry[d]);
      }
    }
    __syncthreads();
  }
  T* out = static_cast<T*>(p.sums) + place * p.latent_dim;
#pragma unroll
  for (int each = 0; each < kLatentEach; ++each) {
    const uint32_t d = threadIdx.x + each * kLatentThreads;
    if (d < p.latent_dim) out[d] = from_float<T>(end == 0 ? 0.0f : sums[each] / total);
  }
}

}  // namespace binfer

BINFER_KERNEL(latent_prepare, LatentAttentionParams, binfer::kPrepareThreads)
BINFER_KERNEL(latent_prepare_in_place, LatentAttentionParams, binfer::kPrepareThreads)
BINFER_KERNEL(latent_attention_reference, LatentAttentionParams, binfer::kLatentThreads)

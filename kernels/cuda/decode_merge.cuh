// decode_merge.cuh: a pair of row and KV head out of the partial sums that blocks made of it, in
// the order of its pages. A block's part: heads' sums [gqa_group][kDim], then their softmax states,
// maximum and sum.
#pragma once

#include "decode_pages.cuh"
#include "work_split.cuh"

namespace decode {

constexpr int kRanksMax = 8;  // blocks of a cluster
constexpr float kLog2E = 1.4426950408889634f;

template <typename T, int kDim>
__device__ void store_out(const AttentionParams& a, const PageCursor& at, int head, int pair,
                          float2 x) {
  const size_t row = size_t(at.token) * a.heads + at.head * (a.heads / a.kv_heads) + head;
  reinterpret_cast<uint32_t*>(static_cast<T*>(a.out) + row * kDim)[pair] = ptx::pack<T>(x.x, x.y);
}

// What a head's sink adds to its sum of weights, once a pair; `largest`: of scores, base 2.
__device__ inline float sink_weight(const AttentionParams& a, const PageCursor& at, int head,
                                    float row_max) {
  if (a.sinks == nullptr) return 0.0f;
  const int query = at.head * (a.heads / a.kv_heads) + head;
  return ptx::exp2_approximate(a.sinks[query] * kLog2E - row_max);
}

// The last block of a pair adds up its parts, a warp a head.
template <typename T, int kDim>
__device__ void merge(const DecodeAttentionParams& p, const PageCursor& at,
                      const work_split::Partials& partials) {
  constexpr int kPairs = kDim / 64, kEarly = 8;  // float2 of a lane; parts asked for at once
  const int gqa_group = p.attention.heads / p.attention.kv_heads, lane = threadIdx.x % 32;
  const auto partial = [&](int i) {
    return p.partials + size_t(partials.slot(partials.first + i)) * gqa_group * (kDim + 2);
  };
  for (int head = threadIdx.x / 32; head < gqa_group; head += kWarps) {
    const auto part = [&](int i, int j) {
      return __ldcg(reinterpret_cast<const float2*>(partial(i) + head * kDim) + 32 * j + lane);
    };
    const auto state = [&](int i) {
      if (i >= partials.count()) return float2{-INFINITY, 0};
      return __ldcg(reinterpret_cast<const float2*>(partial(i) + gqa_group * kDim) + head);
    };
    float2 early[kEarly][kPairs];
#pragma unroll
    for (int i = 0; i < kEarly; ++i) {
#pragma unroll
      for (int j = 0; j < kPairs; ++j) early[i][j] = part(min(i, partials.count() - 1), j);
    }
    float row_max = -INFINITY;
    for (int i = lane; i < partials.count(); i += 32) row_max = fmaxf(row_max, state(i).x);
#pragma unroll
    for (int s = 16; s > 0; s /= 2) row_max = fmaxf(row_max, __shfl_xor_sync(~0u, row_max, s));
    float sum = 0;
    float2 out[kPairs] = {};
    for (int first = 0; first < partials.count(); first += 32) {
      const float2 mine = state(first + lane);
      const float factor = ptx::exp2_approximate(mine.x - row_max);
      const auto add = [&](int i, const float2(&x)[kPairs]) {
        const float weight = __shfl_sync(~0u, factor, i);
        sum += weight * __shfl_sync(~0u, mine.y, i);
#pragma unroll
        for (int j = 0; j < kPairs; ++j) {
          out[j] = {out[j].x + weight * x[j].x, out[j].y + weight * x[j].y};
        }
      };
      const int count = min(32, partials.count() - first);
      int i = 0;
      if (first == 0) {
#pragma unroll
        for (; i < kEarly; ++i) {
          if (i < count) add(i, early[i]);
        }
      }
#pragma unroll 4
      for (; i < count; ++i) {
        float2 x[kPairs];
#pragma unroll
        for (int j = 0; j < kPairs; ++j) x[j] = part(first + i, j);
        add(i, x);
      }
    }
    sum += sink_weight(p.attention, at, head, row_max);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      store_out<T, kDim>(p.attention, at, head, 32 * j + lane, {out[j].x / sum, out[j].y / sum});
    }
  }
}

// The same in a cluster, which has a pair to itself: every block takes a part of what goes out.
template <typename T, int kDim>
__device__ void merge_in_cluster(const AttentionParams& a, const PageCursor& at, int ranks,
                                 const float2* partial) {
  const int gqa_group = a.heads / a.kv_heads;
  const auto* states = partial + gqa_group * kDim / 2;
  const int first = ptx::cluster_rank() * kThreads + threadIdx.x;
  for (int i = first; i < gqa_group * kDim / 2; i += ranks * kThreads) {
    const int head = i / (kDim / 2);
    float2 state[kRanksMax], x[kRanksMax], out = {0, 0};
    float row_max = -INFINITY, sum = 0;
#pragma unroll
    for (int rank = 0; rank < kRanksMax; ++rank) {
      if (rank >= ranks) continue;
      state[rank] = ptx::load_of_rank(states + head, rank);
      x[rank] = ptx::load_of_rank(partial + i, rank);
    }
#pragma unroll
    for (int rank = 0; rank < kRanksMax; ++rank) {
      if (rank < ranks) row_max = fmaxf(row_max, state[rank].x);
    }
#pragma unroll
    for (int rank = 0; rank < kRanksMax; ++rank) {
      if (rank >= ranks) continue;
      const float weight = ptx::exp2_approximate(state[rank].x - row_max);
      sum += weight * state[rank].y;
      out = {out.x + weight * x[rank].x, out.y + weight * x[rank].y};
    }
    sum += sink_weight(a, at, head, row_max);
    store_out<T, kDim>(a, at, head, i % (kDim / 2), {out.x / sum, out.y / sum});
  }
}

}  // namespace decode

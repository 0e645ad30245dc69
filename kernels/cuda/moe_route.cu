// moe_route.cu: which experts get which tokens, without atomics on floats and without the host.
//   moe_route: a token's experts and their weights, out of the router's logits; a warp a token.
//              Grid: chunks of chunk_tokens tokens, kRouteThreads threads.
//   moe_sort:  slots by expert, in a stable order, as counting sort with prefix sums: the same
//              whatever order blocks run in. And the tiles of the grouped gemms.
//              Grid: chunks, kSortThreads threads.
#include "common.cuh"
#include "moe_params.h"

namespace binfer {

constexpr int kRouteThreads = 128, kRouteWarps = kRouteThreads / 32;
constexpr int kSortThreads = 256;
constexpr int kIdBits = 16;

// What experts are compared by. Of two keys the larger one is chosen: an expert of a kept group
// before others, a higher score before a lower one, a lower id before a higher one. 0: taken.
__device__ inline uint64_t choice_key(float score, uint32_t expert, bool is_kept) {
  uint32_t bits = __float_as_uint(score);
  bits = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  if (isnan(score)) bits = 0;
  const uint32_t low_id_first = (1u << kIdBits) - 1 - expert;
  return static_cast<uint64_t>(is_kept) << (32 + kIdBits) |
         static_cast<uint64_t>(bits) << kIdBits | low_id_first;
}
__device__ inline uint32_t expert_of_key(uint64_t key) {
  return (1u << kIdBits) - 1 - static_cast<uint32_t>(key & ((1u << kIdBits) - 1));
}
__device__ inline uint64_t warp_max_key(uint64_t key) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const uint64_t other = __shfl_xor_sync(0xffffffffu, key, lanes);
    key = other > key ? other : key;
  }
  return key;
}

// Scores of a token's experts, into `scores`.
__device__ void score(const MoeRouteParams& p, uint32_t token, float* scores) {
  const uint32_t lane = threadIdx.x % 32;
  const float* logits = p.logits + static_cast<size_t>(token) * p.experts;
  float largest = -INFINITY;
  for (uint32_t expert = lane; expert < p.experts; expert += 32) {
    const float logit = logits[expert] + (p.bias != nullptr ? p.bias[expert] : 0.0f);
    scores[expert] = logit;
    largest = fmaxf(largest, logit);
  }
  if (p.scores == ROUTER_SIGMOID) {
    for (uint32_t expert = lane; expert < p.experts; expert += 32) {
      scores[expert] = 1.0f / (1.0f + expf(-scores[expert]));
    }
    return;
  }
  largest = warp_max(largest);
  float sum = 0.0f;
  for (uint32_t expert = lane; expert < p.experts; expert += 32) {
    scores[expert] = expf(scores[expert] - largest);
    sum += scores[expert];
  }
  sum = warp_sum(sum);
  for (uint32_t expert = lane; expert < p.experts; expert += 32) scores[expert] /= sum;
}

// Whether the group of experts that is this lane's is kept; up to 32 groups.
__device__ bool is_group_kept(const MoeRouteParams& p, const float* scores) {
  const uint32_t lane = threadIdx.x % 32;
  float score = -INFINITY;
  if (lane < p.expert_groups) {
    const uint32_t each = p.experts / p.expert_groups;
    float best = -INFINITY, second = -INFINITY;
    for (uint32_t expert = lane * each; expert < (lane + 1) * each; ++expert) {
      const float x = scores[expert] + (p.correction != nullptr ? p.correction[expert] : 0.0f);
      second = fmaxf(second, fminf(best, x));
      best = fmaxf(best, x);
    }
    score = p.group_score == GROUP_MAX || each == 1 ? best : best + second;
  }
  uint32_t better = 0;
  for (uint32_t group = 0; group < p.expert_groups; ++group) {
    const float other = __shfl_sync(0xffffffffu, score, group);
    better += other > score || (other == score && group < lane);
  }
  return better < p.groups_kept;
}

// Chooses a token's experts; slot i belongs to lane i.
__device__ void choose(const MoeRouteParams& p, uint32_t token, const float* scores,
                       uint64_t* keys, uint32_t* counts) {
  const uint32_t lane = threadIdx.x % 32;
  uint32_t kept = 0xffffffffu, each = 1;
  if (p.expert_groups > 0) {
    kept = __ballot_sync(0xffffffffu, is_group_kept(p, scores));
    each = p.experts / p.expert_groups;
  }
  for (uint32_t expert = lane; expert < p.experts; expert += 32) {
    const float corrected = scores[expert] + (p.correction != nullptr ? p.correction[expert] : 0.0f);
    const bool is_kept = p.expert_groups == 0 || (kept >> expert / each & 1) != 0;
    keys[expert] = choice_key(corrected, expert, is_kept);
  }
  __syncwarp();
  uint32_t mine = 0;
  float weight = 0.0f, sum = 0.0f;
  for (uint32_t slot = 0; slot < p.top_k; ++slot) {
    uint64_t best = 0;
    for (uint32_t expert = lane; expert < p.experts; expert += 32) {
      best = keys[expert] > best ? keys[expert] : best;
    }
    const uint32_t expert = expert_of_key(warp_max_key(best));
    if (lane == slot) mine = expert, weight = scores[expert];
    sum += scores[expert];
    __syncwarp();
    if (lane == 0) keys[expert] = 0, atomicAdd(counts + expert, 1);
    __syncwarp();
  }
  if (lane >= p.top_k) return;
  if (p.normalize != 0) weight /= sum + 1e-20f;
  const size_t slot = static_cast<size_t>(token) * p.top_k + lane;
  p.experts_of[slot] = mine;
  p.weights[slot] = weight * p.scale;
}

__device__ void moe_route(const MoeRouteParams& p) {
  __shared__ float scores[kRouteWarps][kExpertsMax];
  __shared__ uint64_t keys[kRouteWarps][kExpertsMax];
  __shared__ uint32_t counts[kExpertsMax];
  for (uint32_t i = threadIdx.x; i < p.experts; i += kRouteThreads) counts[i] = 0;
  wait_for_previous();
  let_next_start();
  __syncthreads();
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t first = blockIdx.x * p.chunk_tokens, real = p.state->tokens;
  const uint32_t end = min(first + p.chunk_tokens, p.tokens);
  for (uint32_t token = first + warp; token < end; token += kRouteWarps) {
    if (token < real) {
      score(p, token, scores[warp]);
      __syncwarp();
      choose(p, token, scores[warp], keys[warp], counts);
      __syncwarp();
    } else if (lane < p.top_k) {
      p.experts_of[static_cast<size_t>(token) * p.top_k + lane] = kNone;
      p.weights[static_cast<size_t>(token) * p.top_k + lane] = 0.0f;
    }
  }
  __syncthreads();
  uint32_t* out = p.counts + static_cast<size_t>(blockIdx.x) * p.experts;
  for (uint32_t i = threadIdx.x; i < p.experts; i += kRouteThreads) out[i] = counts[i];
}

// Slots of an expert: of all chunks, and of those before this block's.
struct ExpertCount {
  uint32_t all, before;
};
__device__ inline ExpertCount expert_count(const MoeSortParams& p, uint32_t local) {
  ExpertCount count = {0, 0};
  const uint32_t* at = p.counts + p.first_expert + local;
#pragma unroll 8
  for (uint32_t chunk = 0; chunk < p.chunks; ++chunk) {
    const uint32_t more = at[static_cast<size_t>(chunk) * p.experts];
    count.all += more;
    if (chunk < blockIdx.x) count.before += more;
  }
  return count;
}

// Sums before each element and of all, of `count` elements, in place.
__device__ uint32_t exclusive_sums(uint32_t* x, uint32_t count) {
  __shared__ uint32_t warps[kSortThreads / 32];
  uint32_t before = 0;
  for (uint32_t from = 0; from < count; from += kSortThreads) {
    const uint32_t at = from + threadIdx.x, lane = threadIdx.x % 32;
    const uint32_t mine = at < count ? x[at] : 0;
    uint32_t sum = mine;
#pragma unroll
    for (int lanes = 1; lanes < 32; lanes *= 2) {
      const uint32_t other = __shfl_up_sync(0xffffffffu, sum, lanes);
      if (lane >= lanes) sum += other;
    }
    if (lane == 31) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    uint32_t all = 0;
    for (uint32_t warp = 0; warp < kSortThreads / 32; ++warp) {
      if (warp == threadIdx.x / 32) sum += all;
      all += warps[warp];
    }
    if (at < count) x[at] = before + sum - mine;
    before += all;
    __syncthreads();
  }
  return before;
}

// The first block writes the tiles of all experts, and that there are no more.
__device__ void write_tiles(const MoeSortParams& p, const uint32_t* totals, const uint32_t* firsts,
                            uint32_t* first_tiles) {
  for (uint32_t i = threadIdx.x; i < p.local_experts; i += kSortThreads) {
    first_tiles[i] = (totals[i] + p.tile_tokens - 1) / p.tile_tokens;
  }
  __syncthreads();
  const uint32_t tiles = exclusive_sums(first_tiles, p.local_experts);
  for (uint32_t i = threadIdx.x; i < p.local_experts; i += kSortThreads) {
    MoeTile* to = p.tiles + first_tiles[i];
    for (uint32_t done = 0; done < totals[i]; done += p.tile_tokens) {
      *to++ = {i, firsts[i] + done, min(p.tile_tokens, totals[i] - done), 0};
    }
  }
  for (uint32_t i = tiles + threadIdx.x; i < p.tiles_max; i += kSortThreads) p.tiles[i] = {};
}

__device__ void moe_sort(const MoeSortParams& p) {
  __shared__ uint32_t totals[kExpertsMax], firsts[kExpertsMax], befores[kExpertsMax];
  __shared__ uint32_t experts[kChunkSlotsMax];
  wait_for_previous();
  let_next_start();
  for (uint32_t i = threadIdx.x; i < p.local_experts; i += kSortThreads) {
    const ExpertCount count = expert_count(p, i);
    totals[i] = firsts[i] = count.all;
    befores[i] = count.before;
  }
  const uint32_t first = blockIdx.x * p.chunk_slots;
  const uint32_t count = min(p.chunk_slots, p.slots - first);
  for (uint32_t i = threadIdx.x; i < count; i += kSortThreads) {
    experts[i] = p.experts_of[first + i] - p.first_expert;  // others' are large
  }
  __syncthreads();
  exclusive_sums(firsts, p.local_experts);
  for (uint32_t i = threadIdx.x; i < count; i += kSortThreads) {
    const uint32_t expert = experts[i];
    if (expert >= p.local_experts) {
      p.positions[first + i] = kNone;
      continue;
    }
    uint32_t position = firsts[expert] + befores[expert];
    for (uint32_t earlier = 0; earlier < i; ++earlier) position += experts[earlier] == expert;
    p.positions[first + i] = position;
    p.slots_at[position] = first + i;
  }
  if (blockIdx.x == 0) {
    __syncthreads();
    write_tiles(p, totals, firsts, befores);
  }
}

}  // namespace binfer

extern "C" __global__ void __launch_bounds__(binfer::kRouteThreads)
    moe_route(const __grid_constant__ MoeRouteParams p) {
  binfer::moe_route(p);
}
extern "C" __global__ void __launch_bounds__(binfer::kSortThreads)
    moe_sort(const __grid_constant__ MoeSortParams p) {
  binfer::moe_sort(p);
}
